"""Validation during training: when it is due, which checkpoint is the best, and when to stop early."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from clipbert_jax.models.model_def import Parameters
from clipbert_jax.training.metrics_writer import drop_after, naming, read_json_lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """What one validation found."""

    score: float
    """The higher, the better."""
    metrics: Mapping[str, float]


Validate = Callable[[Parameters, Callable[[], None]], ValidationResult]
"""Takes all arrays of the model, each whole on every device, and what it calls after each batch; that may
raise, to end the validation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationHistory:
    """How validation went so far."""

    best_step: int | None = None
    best_score: float | None = None
    num_since_best: int = 0
    """Validations after the best one."""
    last_step: int | None = None
    """Of the last validation."""

    def after(self, step: int, score: float) -> ValidationHistory:
        """Return the history after one more validation; of equal scores the earlier counts as the best.

        Args:
          step: of the validation.
          score: the higher, the better; NaN is never the best.
        """
        if not math.isnan(score) and (self.best_score is None or score > self.best_score):
            return ValidationHistory(best_step=step, best_score=score, last_step=step)
        return dataclasses.replace(self, num_since_best=self.num_since_best + 1, last_step=step)

    def has_stopped(self, patience: int) -> bool:
        """Return whether there were so many validations without a new best; with 0 there never are."""
        return 0 < patience <= self.num_since_best


class ValidationLog:
    """Scores on disk, a JSON line each; apart from checkpoints, which are saved before they are validated.

    A run that goes on from a step reads what was found up to there, and so decides as an unbroken run does.
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
        """Forget validations after a step: those will be done again."""
        drop_after(self._path, last_step)

    def add(self, step: int, score: float) -> None:
        """Note a validation."""
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


def validation_steps(num_steps: int, num_validations: int) -> frozenset[int]:
    """Return the steps after which to validate: evenly spread, the last one included."""
    count = min(num_validations, num_steps)
    return frozenset(round(num_steps * (i + 1) / count) for i in range(count))
