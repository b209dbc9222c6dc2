"""The report of the demo: what the model learned, and what it finds; `demo.run` gives it the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from experiments.reports.cards import Card
from experiments.reports.charts import Chart, Series, curve_chart
from experiments.reports.page import flatten, write_page
from experiments.reports.run_curves import short


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


def _recall_chart(recalls: Mapping[str, Mapping[str, float]]) -> Chart | None:
    counts = sorted(map(int, recalls))
    series = [
        Series(name=f"R@{k}", steps=counts, values=[recalls[str(count)][f"r{k}"] for count in counts])
        for k in (10, 5, 1)
    ]
    return curve_chart(
        "Text-to-video recall by number of clips, %",
        series,
        show=short,
        name_step="{} clips".format,
        has_dots=True,
    )


def _loss_chart(history: Sequence[Mapping[str, Any]]) -> Chart | None:
    steps, losses = zip(*((int(record["step"]), float(record["loss"])) for record in history), strict=True)
    return curve_chart("Training loss", [Series(name="loss", steps=steps, values=losses)], show=short)
