"""Validation during training: when it is due, which checkpoint is the best, and when to stop early."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from clipbert_jax.models.model_def import Parameters
from clipbert_jax.training.metrics_writer import drop_after, naming, read_json_lines
from clipbert_jax.training.train_config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Result of one validation."""

    score: float
    """Score by which the best checkpoint is chosen; higher is better."""
    metrics: Mapping[str, float]


Validate = Callable[[Parameters, Callable[[], None]], ValidationResult]
"""Function that takes all arrays of the model, each whole on every device, and a function that it calls after
each batch. That one may raise, to end the validation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationHistory:
    """What the validations up to a step have found."""

    best_step: int | None = None
    best_score: float | None = None
    num_since_best: int = 0
    """Number of validations after the best one."""
    last_step: int | None = None
    """Step of the last validation."""

    def after(self, step: int, score: float) -> ValidationHistory:
        """Return the history with one more validation.

        Of equal scores the earlier one is the best; NaN is never the best.
        """
        if not math.isnan(score) and (self.best_score is None or score > self.best_score):
            return ValidationHistory(best_step=step, best_score=score, last_step=step)
        return dataclasses.replace(self, num_since_best=self.num_since_best + 1, last_step=step)

    def has_stopped(self, patience: int) -> bool:
        """Return whether `patience` validations brought no new best; never with a patience of 0."""
        return 0 < patience <= self.num_since_best


class ValidationLog:
    """Scores of a run on disk, one JSON line each.

    They are apart from checkpoints, which are saved before they are validated. A run that goes on from a step
    reads the scores up to that step, and so decides as an unbroken run does.
    """

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / "validations.jsonl"

    def history(self, last_step: int) -> ValidationHistory:
        """Return the history up to a step."""
        history = ValidationHistory()
        for step, score in self.scores():
            if step <= last_step:
                history = history.after(step, score)
        return history

    def drop_after(self, last_step: int) -> None:
        """Forget validations after a step, which will be done again."""
        drop_after(self._path, last_step)

    def add(self, step: int, score: float) -> None:
        """Append the score of a validation."""
        with naming(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": step, "score": None if math.isnan(score) else score}) + "\n")

    def scores(self) -> list[tuple[int, float]]:
        """Return steps and scores; a line cut off by a kill is left out."""
        scores = []
        for record in read_json_lines(self._path):
            step, score = record.get("step"), record.get("score")
            if isinstance(step, int):
                scores.append((step, math.nan if score is None else score))
        return scores


class Validations:
    """The validations of a run that goes on from `first_step`.

    Attributes:
      history: what they have found up to now.
    """

    def __init__(
        self, validate: Validate | None, config: TrainConfig, workdir: Path, *, first_step: int
    ) -> None:
        self._validate, self._config = validate, config
        self._log = ValidationLog(workdir)
        self._steps = validation_steps(config.num_steps, config.num_validations if validate else 0)
        self.history = self._log.history(first_step)

    def are_planned(self, step: int) -> bool:
        """Return whether this is a step after which the run validates."""
        return step in self._steps

    def are_due(self, step: int) -> bool:
        """Return whether the validation after this step is still to be done."""
        return step in self._steps and step != self.history.last_step

    def have_ended(self, step: int) -> bool:
        """Return whether the run ends here: it has all its steps, or stops early."""
        return step >= self._config.num_steps or self.history.has_stopped(self._config.early_stop_validations)

    def drop_after(self, step: int) -> None:
        """Forget validations on disk after a step, which will be done again."""
        if jax.process_index() == 0:
            self._log.drop_after(step)

    def run(self, step: int, parameters: Parameters, after_batch: Callable[[], None]) -> ValidationResult:
        """Validate after a step, and write down the score."""
        assert self._validate is not None
        result = self._validate(parameters, after_batch)
        self.history = self.history.after(step, result.score)
        if jax.process_index() == 0:
            self._log.add(step, result.score)
        return result


def validation_steps(num_steps: int, num_validations: int) -> frozenset[int]:
    """Return the steps after which to validate: evenly spread, the last one included."""
    count = min(num_validations, num_steps)
    return frozenset(round(num_steps * (i + 1) / count) for i in range(count))
