"""Counting: how often, or how many?

A regression: the model predicts the number itself, which is rounded to answer. TGIF-QA count; the original
has the head (`ClipBertForRegression`) and no training for it.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from clipbert_jax.batch import Batch
from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.consensus import pool_clips
from clipbert_jax.models.heads import RegressionHeadConfig
from clipbert_jax.tasks.losses import squared_error
from clipbert_jax.tasks.task import Answers, Losses, Scores, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountQA(Task):
    """Learns to answer with a number."""

    min_count: int = 0
    """Smallest answer; 1 for TGIF-QA."""
    max_count: int = 10
    """Largest answer."""
    use_batch_statistics: bool = False
    """Normalise with the statistics of the batch in training, as the original's head does."""
    num_questions: int = 1
    """Largest number of questions about one video in a batch."""

    name = "count"
    example_form = "counts"
    answer_form = "count"
    evaluations = ("count",)
    probe_unit = "number"
    probe_question = "How many the model counts"
    output_name = "counts"
    output_meaning = "numbers; to answer, round and keep them from {task.min_count} to {task.max_count}"

    @property
    def num_texts(self) -> int:
        """Questions of one video."""
        return self.num_questions

    @property
    def head(self) -> RegressionHeadConfig:
        """The head that this task needs: a number."""
        return RegressionHeadConfig(use_batch_statistics=self.use_batch_statistics)

    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return the squared error of each question [b n]."""
        counts = self.counts(output.scores)
        return {"mse": squared_error(counts, jnp.asarray(batch.labels).astype(counts.dtype))}

    def loss_weights(self, batch: Batch) -> Losses:
        """Return 1 at real questions [b n]."""
        return {"mse": batch.is_real_text.astype(jnp.float32)}

    def counts(self, scores: Scores) -> Float[Array, "b n"]:
        """Return the predicted numbers, neither rounded nor limited to the range."""
        return pool_clips(scores, self.consensus)[..., 0]

    def predict(self, scores: Scores, is_text: Bool[Array, "b n"], num_answers: int) -> Answers:
        """Return the numbers [b n], neither rounded nor limited to the range."""
        return self.counts(scores)

    def probe_score(self, scores: Scores, answer: int, num_answers: int) -> Float[Array, "b n"]:
        """Return the predicted numbers."""
        return self.counts(scores)

    def decisions(self, predicted: np.ndarray, is_text: Bool[np.ndarray, "m n"]) -> np.ndarray:
        """Return the counts, rounded and limited to the range."""
        return np.clip(np.rint(predicted), self.min_count, self.max_count)[is_text]

    def check(self) -> None:
        """Refuse a range that is empty or starts below 0."""
        if not 0 <= self.min_count < self.max_count:
            raise UserError(
                f"--task.min-count {self.min_count} must be at least 0 and below --task.max-count "
                f"{self.max_count}"
            )
