"""Validation during training: when it is due, which checkpoint is the best, and when to stop early."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from clipbert_jax.models.skeleton import Parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """What one validation found."""

    score: float
    """The higher, the better."""
    metrics: Mapping[str, float]


Validate = Callable[[Parameters], ValidationResult]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationCourse:
    """How validation went so far; stored with each checkpoint, so that a continued run decides alike."""

    best_step: int | None = None
    best_score: float | None = None
    num_since_best: int = 0
    """Validations after the best one."""
    has_stopped: bool = False
    """Whether the run has ended early."""

    def after(self, step: int, score: float, *, patience: int) -> ValidationCourse:
        """Return the course after one more validation; of equal scores the earlier counts as the best.

        Args:
          step: of the validation.
          score: the higher, the better; NaN is never the best.
          patience: validations without a new best after which to stop; 0 never stops.
        """
        if not math.isnan(score) and (self.best_score is None or score > self.best_score):
            return ValidationCourse(best_step=step, best_score=score)
        num_since_best = self.num_since_best + 1
        return dataclasses.replace(
            self, num_since_best=num_since_best, has_stopped=0 < patience <= num_since_best
        )


def validation_steps(num_steps: int, num_validations: int) -> frozenset[int]:
    """Return the steps after which to validate: evenly spread, the last one included."""
    count = min(num_validations, num_steps)
    return frozenset(round(num_steps * (i + 1) / count) for i in range(count))
