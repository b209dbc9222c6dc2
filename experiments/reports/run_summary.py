"""Summary of a run from the text files in its directory, for `clipbert report` and `clipbert runs`.

The run may still be going on, or may have been killed at any moment. Missing or broken files count as empty;
only a directory without a config is not a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clipbert_jax.errors import UserError
from clipbert_jax.training.metrics_writer import read_metrics
from clipbert_jax.training.run_directory import read_config
from clipbert_jax.training.validation import ValidationHistory, ValidationLog
from experiments.configs import EXPERIMENTS
from experiments.old_names import OLD_EXPERIMENTS
from experiments.runs.starts import read_starts

RunState = Literal["done", "running", "stopped", "failed"]

_RECENT_SECONDS = 600.0
"""A run without a noted end that wrote a file within this time counts as running."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """The files of a checkpoint."""

    path: Path
    seconds: float
    """Time when it was complete, in seconds since 1970."""

    @property
    def step(self) -> int:
        """Step of the checkpoint."""
        return int(self.path.name)

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run, read from its files."""

    workdir: Path
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    """Records of training, by step; see `training/reporter.py`."""
    validations: Sequence[Mapping[str, Any]]
    """Records of validation, by step: `step` and metrics."""
    scores: Mapping[int, float]
    """Step of a validation -> score that decides which checkpoint is the best (the highest)."""
    starts: Sequence[Mapping[str, Any]]
    checkpoints: Sequence[CheckpointFiles]
    """Checkpoints, by step."""
    results: Mapping[str, Mapping[str, Any]]
    """Name of a result file -> its content."""
    last_written: float
    """Time of the newest file, in seconds since 1970."""

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole run."""
        return self.config["train"]["num_steps"]

    @property
    def step(self) -> int:
        """Last known step."""
        steps = [checkpoint.step for checkpoint in self.checkpoints[-1:]]
        return max([0, *steps, *(record["step"] for record in self.records[-1:])])

    @property
    def history(self) -> ValidationHistory:
        """History of the validation scores."""
        history = ValidationHistory()
        for step, score in self.scores.items():
            history = history.after(step, score)
        return history

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.config["task"]["name"]

    @property
    def experiment(self) -> str:
        """Name of the experiment given to `clipbert train`, or of the task if it is not noted."""
        words = shlex.split(self.starts[-1].get("command", "")) if self.starts else []
        words = [OLD_EXPERIMENTS.get(word, word) for word in words]
        return next((word for word in words if word in EXPERIMENTS), self.task)

    @property
    def state(self) -> RunState:
        """Whether it is complete, seems to be running, or ended early."""
        last_start = self.starts[-1] if self.starts else {}
        if "ended" in last_start:
            how = str(last_start.get("how"))
            return "done" if how == "done" else "failed" if how.startswith("failed") else "stopped"
        if time.time() - self.last_written < _RECENT_SECONDS:
            return "running"
        has_all_steps = bool(self.checkpoints) and self.checkpoints[-1].step >= self.num_steps
        has_stopped_early = self.history.has_stopped(self.config["train"].get("early_stop_validations", 0))
        return "done" if has_all_steps or has_stopped_early else "stopped"

    @property
    def last_loss(self) -> float | None:
        """Last logged loss."""
        return self.records[-1]["loss"] if self.records else None

    @property
    def best_validation(self) -> tuple[str, float] | None:
        """Metric that decides which checkpoint is the best, and its value there."""
        best_step, best_score = self.history.best_step, self.history.best_score
        if best_step is None or best_score is None:
            return None
        by_step = {validation["step"]: validation for validation in self.validations}
        steps = by_step.keys() & self.scores.keys()
        # The score is one of the metrics, or an error with the other sign.
        for name in by_step.get(best_step, {}):
            if all(abs(by_step[step].get(name, math.nan)) == abs(self.scores[step]) for step in steps):
                return name, by_step[best_step][name]
        return "score", best_score


def read_run(workdir: Path) -> RunSummary:
    """Return the summary of a run.

    Raises:
      UserError: the directory is not a run.
    """
    config = read_config(workdir)
    _check_config(config, workdir)
    records = [_numbers(record) for record in read_metrics(workdir)]
    return RunSummary(
        workdir=workdir,
        config=config,
        records=[record for record in records if _is_of_training(record)],
        validations=[record for record in records if not _is_of_training(record)],
        scores=dict(ValidationLog(workdir).scores()),
        starts=read_starts(workdir),
        checkpoints=_checkpoints(workdir),
        results=_results(workdir),
        last_written=_last_written(workdir),
    )


def _check_config(config: Mapping[str, Any], workdir: Path) -> None:
    try:
        is_run = isinstance(config["train"]["num_steps"], int) and isinstance(config["task"]["name"], str)
    except (KeyError, TypeError):
        is_run = False
    if not is_run:
        raise UserError(
            f"{workdir / 'config.json'} is not the config of a run: give the --workdir of `clipbert train`."
        )


def _is_of_training(record: Mapping[str, Any]) -> bool:
    return {"loss", "step_seconds"} <= record.keys()


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a record; names of validation metrics lose their prefix."""
    numbers = {}
    for name, value in record.items():
        with contextlib.suppress(TypeError, ValueError):
            numbers[name.removeprefix("validation/")] = value if isinstance(value, int) else float(value)
    return numbers


def _checkpoints(workdir: Path) -> list[CheckpointFiles]:
    """Return the complete checkpoints; those that are being written or deleted have other names."""
    folder = workdir / "checkpoints"
    steps = sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())
    paths = (folder / str(step) for step in steps)
    return [CheckpointFiles(path=path, seconds=path.stat().st_mtime) for path in paths if path.is_dir()]


def _results(workdir: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(workdir.glob("results*.json")):
        try:
            values = json.loads(path.read_text())
            if isinstance(values["metrics"], dict) and isinstance(values["run"], dict):
                found[path.name] = values
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _last_written(workdir: Path) -> float:
    names = ("config.json", "environment.json", "metrics.jsonl", "checkpoints")
    return max(path.stat().st_mtime for path in (workdir / name for name in names) if path.exists())
