"""The page of `clipbert report`: curves, speed, results, samples, environment and config of a run.

It is made of the files of the run directory (`run_summary.py`), whether the run goes on, has ended or was
killed. Frames of the sampled videos are shown if the data directory is there.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from clipbert_jax.training.metrics_writer import read_json_lines
from data_pipelines.clips import sample_clips
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.video import UnreadableVideo
from experiments.configs import EXPERIMENTS
from experiments.experiment import from_json, to_json
from experiments.reports.page import SHOWN_SIZE, flatten, jpeg_data_uri, write_page
from experiments.reports.run_curves import clip_charts, learning_charts, numbers, speed_charts, undisturbed
from experiments.reports.run_summary import RunSummary
from experiments.reports.samples import Samples, read_samples
from experiments.runs.resolve import DATA_SHA256

_NUM_SAMPLES = 3
"""Number of right samples, and of wrong ones."""

_NUM_NAMED_STEPS = 10


def write_run_report(run: RunSummary, path: Path) -> None:
    """Write the page."""
    samples = read_samples(run.workdir, num_each=_NUM_SAMPLES)
    write_page(
        path,
        Path(__file__).with_name("run_report.html.jinja"),
        scripts=[Path(__file__).with_name("run_report.js")],
        title=run.workdir.resolve().name,
        run=run,
        written=_date(time.time()),
        since=str(run.starts[0].get("date", "")) if run.starts else "",
        figures=_figures(run),
        warnings=list(_warnings(run)),
        learning=learning_charts(run),
        speed=speed_charts(run),
        numbers=numbers(run),
        evaluations=[_evaluation(name, values) for name, values in run.results.items()],
        samples=samples,
        pictures=_pictures(run, samples) if samples else {},
        checkpoints=[
            (item.step, _date(item.seconds), f"{item.num_bytes / 1e6:,.1f} MB") for item in run.checkpoints
        ],
        config=_config(run),
    )


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _figures(run: RunSummary) -> list[tuple[str, str, str]]:
    """Return the large numbers at the top: label, number, remark."""
    figures = [("Step", f"{run.step:,}", f"of {run.num_steps:,}{_duration(run)}")]
    if run.records:
        first = run.records[0]["loss"]
        figures.append(("Loss", f"{run.last_loss:.4g}", f"{first:.4g} at the start"))
    if best := run.best_validation:
        name, value = best
        figures.append(("Best validation", f"{value:.4g}", f"{name}, at step {run.history.best_step:,}"))
    speed = _medians(run)
    if "videos_per_second" in speed:
        remarks = [f"MFU {speed['mfu']:.0%}"] if "mfu" in speed else []
        remarks.append(f"waits for input {speed['input_wait_share']:.0%} of the time")
        figures.append(("Videos per second", f"{speed['videos_per_second']:.4g}", ", ".join(remarks)))
    return figures


def _duration(run: RunSummary) -> str:
    """Return the time of the logged steps without validations and pauses, and the time left."""
    if not run.records:
        return ""
    steps = [0, *(record["step"] for record in run.records)]
    spans = (after - before for before, after in itertools.pairwise(steps))
    seconds = [record["step_seconds"] for record in run.records]
    said = f", in {_time(sum(span * each for span, each in zip(spans, seconds, strict=True)))}"
    if run.state != "running":
        return said
    return f"{said}; about {_time((run.num_steps - run.step) * statistics.median(seconds[-20:]))} left"


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _medians(run: RunSummary) -> dict[str, float]:
    records = undisturbed(run)
    return {
        name: statistics.median(record[name] for record in records if name in record)
        for name in ("videos_per_second", "input_wait_share", "mfu")
        if any(name in record for record in records)
    }


def _warnings(run: RunSummary) -> Iterator[str]:
    """Yield warnings that explain strange curves."""
    if run.state == "failed":
        yield f"The run {run.starts[-1]['how']}."
    num_skipped = sum(int(record.get("num_skipped", 0)) for record in run.records)
    if num_skipped:
        lines = read_json_lines(run.workdir / "nonfinite_steps.jsonl")
        steps = [str(line["step"]) for line in lines if "step" in line]
        named = ", ".join(steps[:_NUM_NAMED_STEPS]) + (", ..." if len(steps) > _NUM_NAMED_STEPS else "")
        where = f" (steps {named}; nonfinite_steps.jsonl names the examples)" if steps else ""
        yield f"{num_skipped} updates were skipped because gradients were not finite{where}."
    lost = [record["step"] for record in run.records if not math.isfinite(record["loss"])]
    if lost:
        yield f"The loss was not finite in {len(lost)} records, first at step {lost[0]:,}."


def _evaluation(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a result file: a row for each metric, a column for each number of clips."""
    metrics, intervals = values["metrics"], values.get("intervals", {})
    baseline, run = values.get("baseline", {}), values["run"]

    def cell(count: str, metric: str) -> tuple[str, list[str]]:
        ends = intervals.get(count, {}).get(metric, ())
        return _number(metrics[count].get(metric)), [_number(end) for end in ends]

    names = dict.fromkeys(itertools.chain.from_iterable(metrics.values()))
    facts = {
        "task": run.get("task"),
        "split": run.get("split"),
        "checkpoint": run.get("checkpoint_step"),
        "videos": run.get("num_videos"),
        "texts": run.get("num_records"),
    }
    return {
        "name": name,
        "facts": {fact: value for fact, value in facts.items() if value is not None},
        "counts": list(metrics),
        "rows": [
            (metric, [cell(count, metric) for count in metrics], _number(baseline.get(metric)))
            for metric in names
        ],
        "has_baseline": bool(baseline),
        "charts": clip_charts(metrics),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _pictures(run: RunSummary, samples: Samples) -> dict[str, list[str]]:
    """Return the first frame of each clip of the sampled videos; none where data or videos are missing."""
    data = _data_config(run, samples)
    if data is None:
        return {}
    shown = (card.heading for sample in [*samples.right, *samples.wrong] for card in sample.cards)
    return {video_id: _frames(data, video_id, samples.num_clips) for video_id in dict.fromkeys(shown)}


def _data_config(run: RunSummary, samples: Samples) -> DataConfig | None:
    """Return how the evaluation read videos; None if it is unknown."""
    try:
        config = {name: value for name, value in run.config.items() if name != DATA_SHA256}
        data = from_json(config, run.workdir / "config.json").data
    except UserError:  # of another version
        return None
    if data.sampling_rule == "original" and samples.num_clips == 1:
        return None  # where that clip lies depends on the task
    file = "results.json" if samples.split == "test" else f"results-{samples.split}.json"
    data_dir = run.results.get(file, {}).get("run", {}).get("data_dir", data.data_dir)
    return dataclasses.replace(data, data_dir=str(data_dir))


def _frames(data: DataConfig, video_id: str, num_clips: int) -> list[str]:
    try:
        video = open_corpus(data.data_dir).read(video_id)
        clips = sample_clips(video, data, num_clips=num_clips, one_clip="middle", shown_size=SHOWN_SIZE)
    except (UserError, UnreadableVideo, OSError):
        return []
    return [jpeg_data_uri(frame) for frame in clips.shown[:, 0]]


def _config(run: RunSummary) -> dict[str, list[tuple[str, str, str | None]]]:
    """Return by group: field, value, and the preset of the experiment if it differs."""
    preset = flatten(to_json(EXPERIMENTS[run.experiment]())) if run.experiment in EXPERIMENTS else {}
    groups: dict[str, list[tuple[str, str, str | None]]] = {}
    for name, value in flatten(run.config).items():
        group, _, field = name.rpartition(".")
        usual = preset.get(name, value)
        groups.setdefault(group, []).append((field, value, None if usual == value else usual))
    return groups
