"""The curves of the report of a run, and the table of numbers behind them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.reports.charts import Chart, Series, curve_chart
from experiments.reports.run_summary import RunSummary

_MAX_LINES = 6
"""Largest number of lines in one chart."""

_NUM_ROWS = 40
"""Largest number of rows of the table."""

_RATE = "_learning_rate"
_KIND_OF_METRIC = {"median_rank": "ranks", "mean_rank": "ranks", "mse": "squared error"}

Records = Sequence[Mapping[str, Any]]


def learning_charts(run: RunSummary) -> list[Chart]:
    """Return the charts of losses, gradient norm, learning rates and validation metrics that have values."""
    loss, norm = _series(run.records, "loss"), _series(run.records, "grad_norm")
    losses = [_series(run.records, name, name.removeprefix("loss/")) for name in _names(run, prefix="loss/")]
    charts = [
        curve_chart("Loss", [loss], show=short, may_be_logarithmic=True),
        curve_chart("Losses of the task", losses[:_MAX_LINES], show=short, may_be_logarithmic=True),
        curve_chart("Gradient norm", [norm], show=short, may_be_logarithmic=True),
        curve_chart("Learning rate", _rates(run), show=_scientific),
        *_metric_charts("Validation", run.validations, name_step="step {:,}".format),
    ]
    return list(filter(None, charts))


def clip_charts(metrics: Mapping[str, Mapping[str, float]]) -> list[Chart]:
    """Return the charts of metrics by number of clips per video; none for a single number."""
    if len(metrics) < 2:
        return []
    records = [{"step": int(count), **metrics[count]} for count in sorted(metrics, key=int)]
    return list(filter(None, _metric_charts("By number of clips", records, name_step="{} clips".format)))


def speed_charts(run: RunSummary) -> list[Chart]:
    """Return the charts of speed, waiting for input, and utilization."""
    records = undisturbed(run)
    waiting, utilization = _percent(records, "input_wait_share"), _percent(records, "mfu")
    charts = [
        curve_chart("Videos per second", [_series(records, "videos_per_second")], show=short),
        curve_chart("Seconds per step", [_series(records, "step_seconds")], show=short),
        curve_chart("Waiting for input, % of the time", [waiting], show=_two_places),
        curve_chart("Use of the devices' peak (MFU), %", [utilization], show=_two_places),
    ]
    return list(filter(None, charts))


def undisturbed(run: RunSummary) -> Records:
    """Return the records whose times do not include a compilation."""
    return [record for record in run.records[1:] if not record.get("num_compilations")]


def numbers(run: RunSummary) -> tuple[list[str], list[list[str]]]:
    """Return the headings and evenly chosen rows, including the last record."""
    names = _names(run)
    stride = math.ceil(len(run.records) / _NUM_ROWS) or 1
    chosen = run.records[::-1][::stride][::-1]
    return names, [[_cell(record.get(name)) for name in names] for record in chosen]


def short(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _two_places(value: float) -> str:
    return f"{round(value, 2):g}"


def _scientific(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _names(run: RunSummary, *, prefix: str = "", suffix: str = "") -> list[str]:
    names = dict.fromkeys(itertools.chain.from_iterable(run.records))
    return [name for name in names if name.startswith(prefix) and name.endswith(suffix)]


def _series(records: Records, name: str, label: str = "", *, factor: float = 1.0) -> Series:
    there = [record for record in records if name in record]
    return Series(
        name=label or name,
        steps=[record["step"] for record in there],
        values=[record[name] * factor for record in there],
    )


def _percent(records: Records, name: str) -> Series:
    return _series(records, name, factor=100)


def _rates(run: RunSummary) -> list[Series]:
    """Return the learning rates; parameter groups with the same rates share a curve."""
    series = [_series(run.records, name, name.removesuffix(_RATE)) for name in _names(run, suffix=_RATE)]
    groups: dict[tuple[float, ...], list[Series]] = {}
    for one in series:
        groups.setdefault(tuple(one.values), []).append(one)
    return [
        dataclasses.replace(of_group[0], name=", ".join(one.name for one in of_group))
        for of_group in groups.values()
    ]


def _metric_charts(
    title: str, records: Records, *, name_step: Callable[[int], str]
) -> Iterator[Chart | None]:
    """Yield a chart for each direction and kind of metric: ranks and errors would squeeze recalls."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(itertools.chain.from_iterable(records)):
        if name != "step":
            direction, _, metric = name.rpartition("/")
            parts = [title, direction.replace("_", " "), _KIND_OF_METRIC.get(metric, "")]
            groups.setdefault(", ".join(filter(None, parts)), []).append(name)
    for group, names in groups.items():
        lines = [_series(records, name, name.rpartition("/")[2]) for name in names[:_MAX_LINES]]
        yield curve_chart(group, lines, show=short, name_step=name_step, has_dots=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{float(value):.4g}"
