"""Times as pages write them."""

from __future__ import annotations


def clock(seconds: float, end: float) -> str:
    """Return a time as 1:05 or 1:01:05, like a player; of a short video also the tenths."""
    tenths = round(seconds * 10) if end < 20 else round(seconds) * 10
    minutes, rest = divmod(tenths, 600)
    text = f"{rest // 10:02d}" + (f".{rest % 10}" if end < 20 else "")
    return f"{minutes // 60}:{minutes % 60:02d}:{text}" if end >= 3600 else f"{minutes}:{text}"
