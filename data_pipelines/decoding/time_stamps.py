"""Turns the time stamps of decoded frames into times that rise; `examine` calls it.

Stamps that rise are taken as they are. Where they do not, as few as possible move, by as little as possible.
"""

from __future__ import annotations

import bisect
import itertools

import numpy as np
from jaxtyping import Bool, Float

_LEAST_STEP = 1e-3
"""Least seconds between two frames whose stamps do not rise; one tick if that is shorter."""
_MANY = 0.1
"""Share of frames above which wrong stamps, or missing ones, are no exceptions."""
_NUM_BEHIND = 3
"""Least number of frames on each side of a restart: fewer are stamps in a wrong order."""
_FAR = 1000
"""A block of so many frames is not an exception but a part of the video."""
_SMOOTH = 3.0
"""Largest step between neighbours of one part, in medians of the steps."""


def rising_times(
    pts: list[int | None], dts: list[int | None], *, time_base: float, rate: float
) -> tuple[Float[np.ndarray, " f"], tuple[str, ...]]:
    """Return seconds after the first frame, which rise, and notes on what was changed.

    Where many stamps do not rise, as in AVI files with B frames, the times of decoding replace them. Frames
    without a stamp are spread between their neighbours, or at `rate` if fewer than two have one. A stream
    that starts again in the middle, as joined recordings do, goes on where it was.

    Args:
      pts: time stamp of each frame in display order; None if it has none.
      dts: time at which the packet of each frame is decoded.
      time_base: seconds of a unit of the stamps; 0 if unknown.
      rate: frames per second of a file without stamps.
    """
    times, notes = _seconds(pts, time_base, rate)
    if np.all(np.diff(times) > 0):
        return times - times[0], notes
    joined = _joined(times)
    rising = _least_moved(joined, min(time_base, _LEAST_STEP))
    is_moved = np.abs(rising - joined) > 1e-9
    if np.mean(is_moved) > _MANY and dts.count(None) <= max(2, _MANY * len(dts)):
        decoded, _ = _seconds(dts, time_base, rate)
        if np.all(np.diff(decoded) > 0):
            return decoded - decoded[0], (*notes, "its time stamps do not rise: times of decoding instead")
    if joined is not times:
        notes += ("its time stamps start again in the middle: the parts follow each other",)
    if is_moved.any():
        most, count = np.abs(rising - joined).max(), np.count_nonzero(is_moved)
        notes += (f"time stamps that do not rise, moved by up to {most:.3g} s: {count}",)
    return rising - rising[0], notes


def _seconds(
    ticks: list[int | None], time_base: float, rate: float
) -> tuple[Float[np.ndarray, " f"], tuple[str, ...]]:
    """Return the times of stamps as they are, and a note on those that had to be filled in."""
    is_known = np.array([tick is not None for tick in ticks])
    num_unknown = np.count_nonzero(~is_known)
    if len(ticks) - num_unknown < min(2, len(ticks)) or not time_base:
        return np.arange(len(ticks)) / rate, ()
    first = next(tick for tick in ticks if tick is not None)
    times = np.array([0 if tick is None else tick - first for tick in ticks]) * time_base
    if not num_unknown:
        return times, ()
    note = f"frames without a time stamp, spread between the others: {num_unknown}"
    return _interpolated(times, is_known, 1 / rate), (note,)


def _interpolated(
    times: Float[np.ndarray, " f"], is_known: Bool[np.ndarray, " f"], step: float
) -> Float[np.ndarray, " f"]:
    """Fill in unknown times: between neighbours evenly, before and after them at the median step."""
    places, known = np.flatnonzero(is_known), times[is_known]
    steps = np.diff(known) / np.diff(places)
    step = float(np.median(steps[steps > 0])) if np.any(steps > 0) else step
    filled = np.interp(np.arange(len(times)), places, known)
    before, after = np.arange(places[0]), np.arange(places[-1] + 1, len(times))
    filled[before] = known[0] - step * (places[0] - before)
    filled[after] = known[-1] + step * (after - places[-1])
    return filled


def _joined(times: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    """Return the times with each restart moved behind the frame before it; the same array if none is."""
    steps = np.diff(times)
    step = float(np.median(steps[steps > 0])) if np.any(steps > 0) else 0.0
    places = (np.flatnonzero(steps < 0) + 1).tolist()
    restarts = [place for place in places if _is_restart(times, place, _SMOOTH * step)]
    if not restarts:
        return times
    steps = steps.copy()
    steps[np.array(restarts) - 1] = step
    return times[0] + np.concatenate([[0.0], np.cumsum(steps)])


def _is_restart(times: Float[np.ndarray, " f"], place: int, smooth: float) -> bool:
    """Tell whether a stream starts again at a frame, and neither side of it is a block of wrong stamps.

    Such a block is left, or was entered, by a jump forward.
    """
    ahead, behind = times[max(0, place - _FAR) : place], times[place : place + _FAR]
    num_ahead = _num_leading(ahead[::-1] > times[place])
    num_behind = _num_leading(behind < times[place - 1])
    if min(num_ahead, num_behind) < _NUM_BEHIND:
        return False
    entered, left = place - num_ahead, place + num_behind
    has_jump_before = entered > 0 and num_ahead < _FAR and times[entered] - times[entered - 1] > smooth
    has_jump_after = left < len(times) and num_behind < _FAR and times[left] - times[left - 1] > smooth
    return not (has_jump_before or has_jump_after)


def _num_leading(is_so: Bool[np.ndarray, " n"]) -> int:
    return len(is_so) if is_so.all() else int(np.argmin(is_so))


def _least_moved(times: Float[np.ndarray, " f"], gap: float) -> Float[np.ndarray, " f"]:
    """Return times that rise by at least `gap`: the others move no further than the kept ones need."""
    slack = np.arange(len(times)) * gap
    wanted = times - slack
    kept = _longest_rising(wanted.tolist())
    highest = np.full(len(times), np.inf)
    highest[kept] = wanted[kept]
    highest = np.minimum.accumulate(highest[::-1])[::-1]
    return np.maximum.accumulate(np.minimum(wanted, highest)) + slack


def _longest_rising(values: list[float]) -> list[int]:
    """Return the places of a longest part that never falls (patience sorting)."""
    ends: list[float] = []
    places: list[int] = []
    before: list[int] = []
    for place, value in enumerate(values):
        length = bisect.bisect_right(ends, value)
        ends[length : length + 1], places[length : length + 1] = [value], [place]
        before.append(places[length - 1] if length else -1)
    chosen, place = [], places[-1]
    while place >= 0:
        chosen.append(place)
        place = before[place]
    return chosen[::-1]


def first_of_rising(pts: list[int | None]) -> int | None:
    """Return the first time stamp if every frame has one and they rise, else None."""
    known = [tick for tick in pts if tick is not None]
    does_rise = all(a < b for a, b in itertools.pairwise(known))
    return known[0] if does_rise and len(known) == len(pts) else None
