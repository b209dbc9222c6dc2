"""The demo's report: one self-contained HTML page with what was learned and what it retrieves.

The last stage: after training and evaluation; eats their records and nothing else. Charts are inline SVG,
frames are inline JPEG, so that the page needs no network, and everything that comes from data is escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import cv2
import jinja2
import numpy as np

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_MAX_FRAME_SIDE = 160
"""Pixels; a frame is shown at about half of that, so it stays sharp on dense screens."""


class RankedVideo(TypedDict):
    """One video as retrieved for a query."""

    video_id: str
    probability: float
    """That the text describes the video, from all clips together."""
    is_correct: bool
    frames: Sequence[np.ndarray]
    """uint8 RGB [h w 3], one from each clip."""
    clip_scores: Sequence[float]
    """What each clip alone says, as a probability; may be empty."""


class Query(TypedDict):
    """A text and the best videos for it, best first."""

    text: str
    expected_video_id: str
    ranking: Sequence[RankedVideo]


def write_report(
    path: Path,
    *,
    title: str,
    command: str,
    history: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any],
    queries: Sequence[Query],
) -> None:
    """Write the page.

    Args:
      path: the .html file; its folder is made.
      title: headline.
      command: what the reader types to get this page.
      history: records of training, in the order of `step`, with `loss` and as far as known
        `videos_per_second` and `input_wait_share`.
      results: `text_to_video` and `video_to_text`, each {number of clips: {r1, r5, r10, median_rank}} with
        recalls in percent, and `run`, the factors of the run, nested as one likes.
      queries: examples to show.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _jpeg_data_uri
    environment.globals["zip"] = zip
    recalls = results["text_to_video"]
    page = environment.from_string(_TEMPLATE.read_text()).render(
        title=title,
        command=command,
        directions={
            name: dict(sorted(results[key].items(), key=lambda item: int(item[0])))
            for name, key in (("Text to video", "text_to_video"), ("Video to text", "video_to_text"))
            if key in results
        },
        most_clips=max(recalls, key=int),
        fewest_clips=min(recalls, key=int),
        recall_chart=_recall_chart(recalls),
        loss_chart=_loss_chart(history) if len(history) > 1 else None,
        speed=_speed(history),
        queries=queries,
        factors=_flatten(results.get("run", {})),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of a chart in the chart's own pixels."""

    label: str
    points: list[tuple[float, float]]
    values: list[str]
    """What a pointer over each point is told."""
    label_y: float

    @property
    def path(self) -> str:
        return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chart:
    """A line chart, laid out; the template only draws it."""

    description: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[_Line]
    has_dots: bool

    # The drawing area: margins leave room for the labels.
    width: int = 460
    height: int = 280
    left: int = 46
    right: int = 412
    top: int = 26
    bottom: int = 236

    @classmethod
    def x_position(cls, share: float) -> float:
        return cls.left + share * (cls.right - cls.left)

    @classmethod
    def y_position(cls, share: float) -> float:
        return cls.bottom - share * (cls.bottom - cls.top)


def _loss_chart(history: Sequence[Mapping[str, Any]]) -> _Chart:
    steps = [int(record["step"]) for record in history]
    losses = [float(record["loss"]) for record in history]
    finite = [loss for loss in losses if math.isfinite(loss)]
    y_ticks = _round_ticks(max(finite, default=1.0))
    x_ticks = [tick for tick in _round_ticks(steps[-1]) if tick <= steps[-1]]
    points = [
        (_Chart.x_position(step / steps[-1]), _Chart.y_position(loss / y_ticks[-1]))
        for step, loss in zip(steps, losses, strict=True)
        if math.isfinite(loss)
    ]
    values = [
        f"step {step}: {loss:.3f}" for step, loss in zip(steps, losses, strict=True) if math.isfinite(loss)
    ]
    return _Chart(
        description=f"Training loss from {finite[0]:.3f} to {finite[-1]:.3f} in {steps[-1]} steps."
        if finite
        else "The training loss was never finite.",
        x_label="step",
        y_label="training loss",
        x_ticks=[(_Chart.x_position(tick / steps[-1]), f"{tick:,.0f}") for tick in x_ticks],
        y_ticks=[(_Chart.y_position(tick / y_ticks[-1]), f"{tick:g}") for tick in y_ticks],
        lines=[_Line(label="", points=points, values=values, label_y=0.0)] if points else [],
        has_dots=False,
    )


def _recall_chart(recalls: Mapping[str, Mapping[str, float]]) -> _Chart:
    """Recall by number of clips; the numbers stand at equal distances, as they usually double."""
    counts = sorted(recalls, key=int)
    xs = [_Chart.x_position((i + 0.5) / len(counts)) for i in range(len(counts))]
    keys = {"r10": "R@10", "r5": "R@5", "r1": "R@1"}
    ends = [_Chart.y_position(recalls[counts[-1]][key] / 100) for key in keys]
    lines = [
        _Line(
            label=label,
            points=[
                (x, _Chart.y_position(recalls[count][key] / 100)) for x, count in zip(xs, counts, strict=True)
            ],
            values=[f"{label} with {count} clips: {recalls[count][key]:.1f} %" for count in counts],
            label_y=label_y,
        )
        for (key, label), label_y in zip(keys.items(), _spread(ends, distance=15.0), strict=True)
    ]
    return _Chart(
        description="Text-to-video recall by number of clips; the numbers are in the table.",
        x_label="clips per video",
        y_label="recall, %",
        x_ticks=list(zip(xs, counts, strict=True)),
        y_ticks=[(_Chart.y_position(tick / 100), f"{tick}") for tick in range(0, 101, 25)],
        lines=lines,
        has_dots=True,
    )


def _round_ticks(highest: float) -> list[float]:
    """Return 4 to 6 round numbers from 0 to at least `highest`."""
    rough = max(highest, 1e-9) / 4
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    return [step * i for i in range(math.ceil(highest / step - 1e-6) + 1)]


def _spread(positions: Sequence[float], *, distance: float) -> list[float]:
    """Move rising positions down the page, so that labels keep their distance and never overlap."""
    placed: list[float] = []
    for position in positions:
        placed.append(max(position, placed[-1] + distance) if placed else position)
    return placed


def _speed(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return medians over the run, leaving out the first record, which holds the compilation."""
    return {
        key: float(np.median(values))
        for key in ("videos_per_second", "input_wait_share")
        if (values := [record[key] for record in history[1:] if key in record])
    }


def _flatten(factors: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return one row per leaf: {"train.batch_size": "32"}."""
    rows: dict[str, str] = {}
    for name, value in factors.items():
        if isinstance(value, Mapping):
            rows |= _flatten(value, f"{prefix}{name}.")
        else:
            is_list = isinstance(value, list | tuple)
            rows[f"{prefix}{name}"] = ", ".join(map(str, value)) if is_list else str(value)
    return rows


def _jpeg_data_uri(frame: np.ndarray) -> str:
    """Return a uint8 RGB frame as an inline JPEG, made smaller if it is larger than shown."""
    shrink = _MAX_FRAME_SIDE / max(frame.shape[:2])
    if shrink < 1:
        frame = cv2.resize(frame, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    is_encoded, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    if not is_encoded:
        raise ValueError(f"OpenCV could not encode a frame of shape {frame.shape} as JPEG.")
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
