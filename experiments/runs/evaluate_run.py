"""Evaluates a split with several numbers of clips in one pass over the videos, for `clipbert evaluate`."""

from __future__ import annotations

import dataclasses
import filecmp
import json as json_format
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from clipbert_jax.atomic_files import replacing
from clipbert_jax.errors import UserError
from clipbert_jax.evaluation.score import Reduced
from clipbert_jax.renames import present_names
from clipbert_jax.training.run_directory import list_differences
from clipbert_jax.training.saved_checkpoint import WhichStep
from data_pipelines.annotations.store import records_path
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.data_config import DataConfig
from experiments.evaluators.evaluator import Evaluation, Evaluator
from experiments.evaluators.make_evaluator import EVALUATORS, make_evaluator
from experiments.evaluators.score_split import score_split
from experiments.experiment import to_json
from experiments.input_checks import MAX_CLIPS, check_range
from experiments.runs.load_run import Run, load_run
from experiments.runs.machine_checks import check_writable
from experiments.runtime.progress import say
from experiments.runtime.provenance import environment, write_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Evaluator of a split, with scores and results by number of clips per video."""

    evaluator: Evaluator
    reduced: Mapping[int, Reduced]
    evaluations: Mapping[int, Evaluation]


def evaluate(
    run_dir: Path,
    *,
    num_clips: Sequence[int],
    split: str = "test",
    task: str | None = None,
    data_dir: Path | None = None,
    step: WhichStep = None,
    batch_size: int = 8,
    texts_per_call: int = 64,
    num_workers: int = 0,
    decode_timeout: float = 60.0,
    out: Path | None = None,
) -> Evaluated:
    """Evaluate a run, print the table, and write results, predictions and what else the task has.

    Results go to `results.json` for the run's own task on the test split, else to
    `results-[<task>-]<split>.json`. The file keeps its results with other numbers of clips if the evaluations
    agree in everything else.

    Raises:
      UserError: no such run, checkpoint or split; a model that cannot do the task; a video that is missing or
        cannot be decoded (no other video ever replaces it).
    """
    if not decode_timeout > 0:
        raise UserError(f"--decode-timeout takes seconds above 0, not {decode_timeout:g}")
    if not num_clips:
        raise UserError("--num-clips needs one or more numbers")
    for count in num_clips:
        check_range("--num-clips", count, 1, MAX_CLIPS)
    check_range("--batch-size", batch_size, 1)
    check_range("--texts-per-call", texts_per_call, 1)
    check_range("--num-workers", num_workers, 0)
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a directory")
    run = load_run(run_dir, step=step)
    out = out or run.workdir
    data = dataclasses.replace(
        run.experiment.data,
        data_dir=str(data_dir or run.experiment.data.data_dir),
        num_workers=num_workers,
        decode_timeout_seconds=decode_timeout,
    )
    check_writable(out)
    open_corpus(data.data_dir)  # before its records, so that the error names the directory
    own_name = run.experiment.task.evaluations[0]
    name = task or own_name
    evaluator = make_evaluator(name, run.experiment.task, data.data_dir, split, run.text_options)
    if note := run.tokenizer.note_on_length(evaluator.all_texts(), data.max_text_length):
        say(note)
    if note := _note_on_seen(records_path(data.data_dir, EVALUATORS[name].record_kind, split)):
        say(note)
    counts = tuple(dict.fromkeys(num_clips))
    reduced = score_split(
        evaluator,
        run.scorer,
        data,
        what=f"{split}, {'+'.join(map(str, counts))} clip(s) per video",
        num_clips=counts,
        batch_size=batch_size,
        texts_per_call=texts_per_call,
    )
    try:
        evaluations = {count: evaluator.evaluate(reduced[count]) for count in counts}
    except ValueError as error:
        raise UserError(f"{run_dir} cannot be evaluated: {error}") from error
    evaluated = Evaluated(evaluator=evaluator, reduced=reduced, evaluations=evaluations)
    if jax.process_index() > 0:
        return evaluated
    out.mkdir(parents=True, exist_ok=True)
    stem = split if name == own_name else f"{name}-{split}"
    paths = [path for count in counts for path in _write_details(evaluator, reduced[count], out, stem, count)]
    path = out / ("results.json" if stem == "test" else f"results-{stem}.json")
    factors = {"task": name, "split": split, "num_videos": len(evaluator.video_ids)}
    factors |= {"num_records": len(evaluator.records), **run_factors(run, data)}
    write_results(path, evaluations, evaluator.baseline, factors)
    say(_table({count: evaluation.metrics for count, evaluation in evaluations.items()}, evaluator.baseline))
    say(f"results: {path}, and beside it {', '.join(path.name for path in paths)}")
    return evaluated


def _write_details(
    evaluator: Evaluator, reduced: Reduced, out: Path, stem: str, num_clips: int
) -> list[Path]:
    """Write a line for every question or caption, and the extras of the task; return the paths."""
    name = f"{stem}-{num_clips}-clips"
    path = out / f"predictions-{name}.jsonl"
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for prediction in evaluator.predictions(reduced):
            file.write(json_format.dumps(prediction, ensure_ascii=False) + "\n")
    return [path, *evaluator.write_extras(out, name, reduced)]


def write_results(
    path: Path,
    evaluations: Mapping[int, Evaluation],
    baseline: Mapping[str, float],
    run: Mapping[str, Any],
) -> None:
    """Write metrics, intervals, baseline and factors; keep results of the old file that agree with them."""

    def lasting(factors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in factors.items() if name not in ("command", "date")}

    old = _read_results(path)
    tables: dict[str, dict[str, Any]] = {
        "metrics": {str(count): dict(evaluation.metrics) for count, evaluation in evaluations.items()},
        "intervals": {
            str(count): {name: list(interval) for name, interval in evaluation.intervals.items()}
            for count, evaluation in evaluations.items()
        },
    }
    differences = list_differences(lasting(old.get("run", {})), lasting(run))
    if old and differences:
        say(f"{path} had results of another evaluation, which are replaced ({'; '.join(differences)})")
    elif old:
        for name, by_count in tables.items():
            merged = {**old[name], **by_count}
            tables[name] = {count: merged[count] for count in sorted(merged, key=int)}
    write_json(path, {**tables, "baseline": dict(baseline), "run": dict(run)})


def _read_results(path: Path) -> dict[str, Any]:
    """Return the older file; empty if it is missing or broken."""
    try:
        results = json_format.loads(path.read_text())
        run = results["run"]
        return {**results, "run": {**present_names(run), "config": present_names(run["config"])}}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def run_factors(run: Run, data: DataConfig) -> dict[str, Any]:
    """Return the settings on which the numbers depend, for the result file."""
    experiment = run.experiment
    return {
        "workdir": str(run.workdir),
        "checkpoint_step": run.step,
        "parameters": "moving averages" if run.has_ema else "as trained",
        "data_dir": data.data_dir,
        "sampling": "uniform",
        "sampling_rule": data.sampling_rule,
        "num_frames": data.num_frames,
        "fps": data.fps,
        "size": data.size,
        "consensus": experiment.task.consensus,
        "seed": experiment.train.seed,
        "config": to_json(experiment),
        **environment(),
    }


def _note_on_seen(path: Path) -> str | None:
    """Return a warning if the split has the records of training, as in a trial with a few videos."""
    train = path.with_name("train.jsonl")
    if path == train or not train.is_file() or not filecmp.cmp(path, train, shallow=False):
        return None
    return (
        f"{path} is the same as {train.name}: the model is evaluated on its training videos, and the numbers "
        "say nothing about other videos"
    )


def _table(metrics: Mapping[int, Mapping[str, float]], baseline: Mapping[str, float]) -> str:
    """Return a table with a line for each metric and a column for each number of clips."""
    names = list(dict.fromkeys(name for of_count in metrics.values() for name in of_count))
    if not names:
        return "the answers of this split are withheld: predictions are written, but not scored"
    width = max(map(len, names))
    lines = [f"{'clips per video':<{width}}" + "".join(f"{count:>9}" for count in metrics) + " baseline"]
    for name in names:
        cells = [f"{of[name]:>9.2f}" if name in of else " " * 9 for of in metrics.values()]
        floor = f"{baseline[name]:>9.2f}" if name in baseline else ""
        lines.append(f"{name:<{width}}{''.join(cells)}{floor}")
    return "\n".join(lines)
