"""What is known of a run from its directory alone, for `clipbert report` and `clipbert runs`.

Nothing is loaded but text: a run may be going on, have been killed at any moment, or lie on another machine's
disk. Files that are missing or broken count as empty; only a directory without a config is no run.
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
"""A run without a noted end that wrote something in this time is taken to go on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """A checkpoint as seen from outside."""

    path: Path
    seconds: float
    """Since 1970, when it was complete."""

    @property
    def step(self) -> int:
        """Which it is of."""
        return int(self.path.name)

    @property
    def num_bytes(self) -> int:
        """What it takes of the disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run as its files tell it."""

    workdir: Path
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    """Of training, by step; see `training/reporter.py`."""
    validations: Sequence[Mapping[str, Any]]
    """`step` and metrics, by step."""
    scores: Mapping[int, float]
    """Step of a validation -> what decides which checkpoint is the best; the higher, the better."""
    starts: Sequence[Mapping[str, Any]]
    checkpoints: Sequence[CheckpointFiles]
    """By step."""
    results: Mapping[str, Mapping[str, Any]]
    """Name of a result file -> what is in it."""
    last_written: float
    """Seconds since 1970."""

    @property
    def num_steps(self) -> int:
        """Steps that it is to have."""
        return self.config["train"]["num_steps"]

    @property
    def step(self) -> int:
        """The last step that is known of."""
        steps = [checkpoint.step for checkpoint in self.checkpoints[-1:]]
        return max([0, *steps, *(record["step"] for record in self.records[-1:])])

    @property
    def history(self) -> ValidationHistory:
        """How validation went."""
        history = ValidationHistory()
        for step, score in self.scores.items():
            history = history.after(step, score)
        return history

    @property
    def task(self) -> str:
        """Its name."""
        return self.config["task"]["name"]

    @property
    def experiment(self) -> str:
        """What `clipbert train` was given, or the task where that is not noted."""
        words = shlex.split(self.starts[-1].get("command", "")) if self.starts else []
        words = [OLD_EXPERIMENTS.get(word, word) for word in words]
        return next((word for word in words if word in EXPERIMENTS), self.task)

    @property
    def state(self) -> RunState:
        """Whether it is complete, seems to go on, or has ended before its time."""
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
        """The last loss that was logged."""
        return self.records[-1]["loss"] if self.records else None

    @property
    def best_validation(self) -> tuple[str, float] | None:
        """The metric that decides which checkpoint is the best, and its value there."""
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
    """Return what the files of a run say.

    Raises:
      UserError: the directory holds no run.
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
    """Return the numbers of a record, those of a validation by their own names."""
    numbers = {}
    for name, value in record.items():
        with contextlib.suppress(TypeError, ValueError):
            numbers[name.removeprefix("validation/")] = value if isinstance(value, int) else float(value)
    return numbers


def _checkpoints(workdir: Path) -> list[CheckpointFiles]:
    """Return the complete ones: those that are being written, or deleted, have other names."""
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
