"""The number of a prediction that a probe explains: a log odds, a logit or a count."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from clipbert_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class ProbeScore:
    """Number that a probe explains: how sure the model is of a match or an answer, or what it counts."""

    task: Task
    answer: int = 0
    """Index of the probed answer in the answer vocabulary, if the task has one."""
    num_answers: int = 0
    """Size of that vocabulary; further outputs of the head mean nothing."""

    def __call__(self, scores: Float[Array, "b k n a"]) -> Float[Array, "b n"]:
        """Pool the clips and return the number of each text."""
        return self.task.probe_score(scores, self.answer, self.num_answers)

    def of_scores(self, scores: Float[np.ndarray, "m k a"]) -> Float[np.ndarray, " m"]:
        """Return the number of each of m videos from the scores of its clips."""
        return np.asarray(self(jnp.asarray(scores)[:, :, None]))[:, 0]

    def of_clips(self, scores: Float[np.ndarray, "k a"]) -> Float[np.ndarray, " k"]:
        """Return the number of each clip alone."""
        return self.of_scores(scores[:, None])

    def probability(self, number: float) -> float | None:
        """Return the probability of a log odds; None for other units."""
        return float(jax.nn.sigmoid(number)) if self.task.probe_unit == "log_odds" else None
