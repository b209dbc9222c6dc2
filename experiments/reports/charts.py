"""Line charts as inline SVG: laid out here, drawn by `macros.html.jinja`.

The page's script shows the value under the pointer. Long runs are thinned to means with a band from the least
to the largest value. Values that are not finite leave a gap.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

Point = tuple[float, float]

MAX_POINTS = 240
"""Largest number of points of a line; it has about twice as many pixels."""

_LOG_RATIO = 100.0
"""Ratio of the largest to the least value (both above 0) beyond which the axis is logarithmic."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Logged values by step."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]

    def thinned(self) -> list[ThinnedPoint]:
        """Return at most `MAX_POINTS` points, each made of the same number of values."""
        size = math.ceil(len(self.steps) / MAX_POINTS) or 1
        pairs = list(zip(self.steps, self.values, strict=True))
        return [_thinned(pairs[start : start + size]) for start in range(0, len(pairs), size)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThinnedPoint:
    """One point of a line: some values that follow one another."""

    step: int
    """Step of the last value."""
    mean: float
    """Mean of the finite values; NaN if no value is finite."""
    least: float
    largest: float
    num_lost: int
    """Number of values that are not finite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChartLine:
    """One line of a chart, in the chart's own pixels."""

    label: str
    path: str
    band: str = ""
    """Outline of the area from the least to the largest values."""
    dots: Sequence[tuple[float, float, str]] = ()
    """Places of dots, with the text of their titles."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """The drawing area of a chart; margins leave room for the labels."""

    width: int = 460
    height: int = 194
    left: int = 50
    right: int = 446
    top: int = 12
    bottom: int = 168

    def x_position(self, share: float) -> float:
        """Return the x of a share of the width."""
        return self.left + share * (self.right - self.left)

    def y_position(self, share: float) -> float:
        """Return the y of a share of the height."""
        return self.bottom - share * (self.bottom - self.top)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A line chart, laid out; the template only draws it."""

    title: str
    frame: Frame
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[ChartLine]
    readings: Sequence[tuple[float, str]]
    """Values in words, each with the x where a pointer shows it."""


def curve_chart(
    title: str,
    series: Sequence[Series],
    *,
    show: Callable[[float], str],
    name_step: Callable[[int], str] = "step {:,}".format,
    has_dots: bool = False,
    may_be_logarithmic: bool = False,
) -> Chart | None:
    """Lay out curves over the steps of a run; None if no value is finite.

    Args:
      title: caption of the chart.
      series: the curves, which share both axes.
      show: formats a value.
      name_step: formats a step in a sentence.
      has_dots: whether to mark each point.
      may_be_logarithmic: whether the axis may become logarithmic, so that small values do not vanish.
    """
    frame = Frame()
    thinned = {one.name: one.thinned() for one in series if len(one.steps)}
    points = list(itertools.chain.from_iterable(thinned.values()))
    finite = [value for point in points for value in (point.least, point.largest) if math.isfinite(value)]
    if not finite:
        return None
    scale = _AxisScale.of(finite, may_be_logarithmic=may_be_logarithmic)
    last_step = max([1, *(point.step for point in points)])
    x_ticks = [tick for tick in round_ticks(last_step) if tick <= last_step]

    def place(step: float, value: float) -> Point:
        return frame.x_position(step / last_step), frame.y_position(scale.share(value))

    lines = [
        _line(name, of_one, place, show=show, name_step=name_step, has_dots=has_dots)
        for name, of_one in thinned.items()
    ]
    readings = _readings(thinned, show, name_step)
    return Chart(
        title=title,
        frame=frame,
        x_ticks=[(frame.x_position(tick / last_step), f"{tick:,.0f}") for tick in x_ticks],
        y_ticks=[(frame.y_position(scale.share(tick)), show(tick)) for tick in scale.ticks],
        lines=lines,
        readings=[(round(frame.x_position(step / last_step), 1), text) for step, text in readings.items()],
    )


def _line(
    label: str,
    points: Sequence[ThinnedPoint],
    place: Callable[[float, float], Point],
    *,
    show: Callable[[float], str],
    name_step: Callable[[int], str],
    has_dots: bool,
) -> ChartLine:
    dotted = [point for point in points if has_dots and math.isfinite(point.mean)]
    return ChartLine(
        label=label,
        path=_path_through([place(point.step, point.mean) for point in points]),
        band=_band(
            [place(point.step, point.least) for point in points],
            [place(point.step, point.largest) for point in points],
        ),
        dots=[
            (*place(point.step, point.mean), f"{name_step(point.step)}: {show(point.mean)}")
            for point in dotted
        ],
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AxisScale:
    """A vertical axis with round numbers."""

    ticks: Sequence[float]
    is_logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[float], *, may_be_logarithmic: bool) -> _AxisScale:
        """Return a scale that shows all values, and 0 if it is linear."""
        least, largest = min(values), max(values)
        if may_be_logarithmic and least > 0 and largest / least > _LOG_RATIO:
            first, last = math.floor(math.log10(least)), math.ceil(math.log10(largest))
            step = math.ceil((last - first) / 5)
            powers = range(first, last + step, step)
            return cls(ticks=[10.0**power for power in powers], is_logarithmic=True)
        below = [-tick for tick in round_ticks(-least)] if least < 0 else [0.0]
        above = round_ticks(largest) if largest > 0 else [0.0]
        ticks = [*reversed(below), *above[1:]]
        return cls(ticks=ticks if len(ticks) > 1 else [0.0, 1.0], is_logarithmic=False)

    def share(self, value: float) -> float:
        """Return the height of a value, from 0 at the bottom to 1 at the top."""
        first, last = self.ticks[0], self.ticks[-1]
        if self.is_logarithmic:
            return math.log(value / first) / math.log(last / first)
        return (value - first) / (last - first)


def _thinned(pairs: Sequence[tuple[int, float]]) -> ThinnedPoint:
    finite = [value for _, value in pairs if math.isfinite(value)] or [math.nan]
    return ThinnedPoint(
        step=pairs[-1][0],
        mean=math.fsum(finite) / len(finite),
        least=min(finite),
        largest=max(finite),
        num_lost=sum(not math.isfinite(value) for _, value in pairs),
    )


def _path_through(points: Sequence[Point]) -> str:
    """Return an SVG path through the finite points; a lone point becomes a short stroke."""
    parts = []
    for _, run in itertools.groupby(points, key=lambda point: math.isfinite(point[1])):
        places = [f"{x:.1f},{y:.1f}" for x, y in run if math.isfinite(y)]
        if places:
            parts.append("M" + "L".join(places) + ("h.1" if len(places) == 1 else ""))
    return "".join(parts)


def _band(below: Sequence[Point], above: Sequence[Point]) -> str:
    """Return the outline between two lines where they are finite; empty if they are the same."""
    edges = [pair for pair in zip(below, above, strict=True) if math.isfinite(pair[0][1])]
    if all(low == high for low, high in edges):
        return ""
    outline = [low for low, _ in edges] + [high for _, high in reversed(edges)]
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in outline) + "Z"


def _readings(
    thinned: Mapping[str, Sequence[ThinnedPoint]],
    show: Callable[[float], str],
    name_step: Callable[[int], str],
) -> dict[int, str]:
    """Return the values at each step in words, by rising step."""
    by_step: dict[int, list[str]] = {}
    for name, points in thinned.items():
        for point in points:
            value = _reading(point, show)
            by_step.setdefault(point.step, []).append(f"{name} {value}" if len(thinned) > 1 else value)
    return {step: f"{', '.join(values)} at {name_step(step)}" for step, values in sorted(by_step.items())}


def _reading(point: ThinnedPoint, show: Callable[[float], str]) -> str:
    if not math.isfinite(point.mean):
        return "not finite"
    least, largest = show(point.least), show(point.largest)
    spread = f" ({least} to {largest})" if least != largest else ""
    return show(point.mean) + spread + (f", {point.num_lost} not finite" if point.num_lost else "")


def round_ticks(highest: float) -> list[float]:
    """Return 4 to 6 round numbers from 0 to at least `highest`."""
    rough = max(highest, 1e-9) / 4
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    return [step * i for i in range(math.ceil(highest / step - 1e-6) + 1)]
