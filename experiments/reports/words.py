"""Times as pages write them."""

from __future__ import annotations

from collections.abc import Sequence


def clock(seconds: float, end: float) -> str:
    """Return a time as video players do, 1:05 or 1:01:05; with tenths in a video of less than 20 s."""
    tenths = round(seconds * 10) if end < 20 else round(seconds) * 10
    minutes, rest = divmod(tenths, 600)
    text = f"{rest // 10:02d}" + (f".{rest % 10}" if end < 20 else "")
    return f"{minutes // 60}:{minutes % 60:02d}:{text}" if end >= 3600 else f"{minutes}:{text}"


def clip_times(spans: Sequence[tuple[float, float]]) -> list[str]:
    """Return the times of the clips of a video, such as 1:05-1:06, of their first and last frames."""
    last = max(end for _, end in spans)
    clocks = [(clock(start, last), clock(end, last)) for start, end in spans]
    return [start if start == end else f"{start}-{end}" for start, end in clocks]
