"""The report of the demo: what the model learned, and what it finds; `demo.run` gives it the records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from experiments.reports.cards import Card
from experiments.reports.charts import Chart, ChartLine, Frame, Series, curve_chart, path_through
from experiments.reports.page import flatten, write_page


class Query(TypedDict):
    """A text and the best videos for it, best first."""

    text: str
    expected_video_id: str
    ranking: Sequence[Card]


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
      command: the command that makes the page.
      history: records of training in the order of `step`, with `loss` and, where known, `videos_per_second`
        and `input_wait_share`.
      results: `text_to_video` and `video_to_text`, each {number of clips: {r1, r5, r10, median_rank}} with
        recalls in percent, and `run`, the nested factors of the run.
      queries: the examples to show.
    """
    recalls = results["text_to_video"]
    write_page(
        path,
        Path(__file__).with_name("demo_report.html.jinja"),
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
        factors=flatten(results.get("run", {})),
    )


def _speed(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return medians over the run without the first record, which includes the compilation."""
    return {
        key: float(np.median(values))
        for key in ("videos_per_second", "input_wait_share")
        if (values := [record[key] for record in history[1:] if key in record])
    }


def _recall_chart(recalls: Mapping[str, Mapping[str, float]]) -> Chart:
    """Lay out recall by number of clips, at equal distances because the numbers usually double."""
    counts = sorted(recalls, key=int)
    frame = Frame()
    xs = [frame.x_position((i + 0.5) / len(counts)) for i in range(len(counts))]
    keys = {"r10": "R@10", "r5": "R@5", "r1": "R@1"}
    ends = [frame.y_position(recalls[counts[-1]][key] / 100) for key in keys]
    lines = []
    for (key, label), label_y in zip(keys.items(), _spread(ends, distance=15.0), strict=True):
        ys = [frame.y_position(recalls[count][key] / 100) for count in counts]
        titles = [f"{label} with {count} clips: {recalls[count][key]:.1f} %" for count in counts]
        dots = list(zip(xs, ys, titles, strict=True))
        path = path_through(list(zip(xs, ys, strict=True)))
        lines.append(ChartLine(label=label, path=path, dots=dots, label_place=(xs[-1] + 10, label_y + 4)))
    return Chart(
        title="Recall by number of clips",
        description="Text-to-video recall by number of clips; the numbers are in the table.",
        frame=frame,
        x_ticks=list(zip(xs, counts, strict=True)),
        y_ticks=[(frame.y_position(tick / 100), f"{tick}") for tick in range(0, 101, 25)],
        lines=lines[::-1],
        x_label="clips per video",
        y_label="recall, %",
    )


def _loss_chart(history: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Lay out the training loss."""
    series = Series(
        name="training loss",
        steps=[int(record["step"]) for record in history],
        values=[float(record["loss"]) for record in history],
    )
    chart = curve_chart("training loss", [series], show=lambda value: f"{value:.3g}", frame=Frame())
    return chart and dataclasses.replace(chart, x_label="step", y_label="training loss")


def _spread(positions: Sequence[float], *, distance: float) -> list[float]:
    """Move rising positions down the page, so that labels keep their distance and never overlap."""
    placed: list[float] = []
    for position in positions:
        placed.append(max(position, placed[-1] + distance) if placed else position)
    return placed
