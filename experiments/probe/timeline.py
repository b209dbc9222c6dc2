"""The timeline of the probe page: clips at their true times, for wide and narrow screens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from experiments.reports.words import clock

WIDE_CARD, NARROW_CARD = 10.5, 21.0
"""Width of the card of a clip in % of the timeline; the axis ends half a card before each border."""
_MAX_LANES = 4
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
_MAX_TICKS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
    """Layout of the timeline; places are shares of the axis."""

    ticks: Sequence[tuple[float, str]]
    places: Sequence[float]
    """Place of the middle of each clip."""
    spans: Sequence[tuple[float, float]]
    """Start and length of each clip."""
    wide_lanes: Sequence[int]
    """Lane of each card, from 1 at the top; empty if there are too many: the cards then flow like text."""
    narrow_lanes: Sequence[int]


def lay_out(clips: Sequence[Sequence[float]], duration: float) -> Timeline:
    """Lay out clips, given by the times of their frames; a video without duration is in the middle."""
    end = max([duration, *(second for clip in clips for second in clip)])
    spans = [(_share(min(clip), end), (max(clip) - min(clip)) / (end or 1)) for clip in clips]
    places = [start + length / 2 for start, length in spans]
    return Timeline(
        ticks=[(_share(tick, end), clock(tick, end)) for tick in _ticks(end)],
        places=places,
        spans=spans,
        wide_lanes=_lanes(places, WIDE_CARD),
        narrow_lanes=_lanes(places, NARROW_CARD),
    )


def _share(second: float, end: float) -> float:
    return second / end if end > 0 else 0.5


def _ticks(end: float) -> list[float]:
    fitting = (step for step in _STEPS if end / step < _MAX_TICKS)
    step = next(fitting, end / (_MAX_TICKS - 1))
    return [step * i for i in range(int(end / step + 1e-6) + 1)] if end > 0 else [0.0]


def _lanes(places: Sequence[float], card: float) -> list[int]:
    """Return the lane of each card, so that no card covers another."""
    distance = card / (100 - card)
    lanes, last = [0] * len(places), []
    for clip in sorted(range(len(places)), key=places.__getitem__):
        free = (lane for lane, place in enumerate(last) if places[clip] - place >= distance - 1e-6)
        lane = next(free, len(last))
        last[lane : lane + 1] = [places[clip]]
        lanes[clip] = lane
    # The first lane is the lowest, next to the axis.
    return [len(last) - lane for lane in lanes] if len(last) <= _MAX_LANES else []
