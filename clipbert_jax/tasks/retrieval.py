"""Text-video retrieval: does this text describe this video?

Each video comes with texts that match it (label 1) and texts of other videos that do not (label 0).
Paper section 4; the original's
`ClipBertForVideoTextRetrieval` and `src/tasks/run_video_retrieval.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.consensus import pool_clips
from clipbert_jax.models.heads import ClassifierHeadConfig
from clipbert_jax.tasks.losses import cross_entropy
from clipbert_jax.tasks.task import Losses, MatchTask, Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(MatchTask):
    """Learns to tell matching from mismatching texts, and ranks by it."""

    loss: Literal["ce", "rank"] = "ce"
    """Loss: 2-way cross-entropy of every text, or a ranking loss.
    With `rank` each matching text of a video should beat each mismatching one by the margin."""
    margin: float = 0.2
    """Margin of `rank`, between sigmoids."""
    num_negatives: int = 1
    """Number of mismatching texts drawn for each matching one."""
    ranking_rule: Literal["corrected", "original"] = "corrected"
    """Rule of ranking.
    `original` rounds probabilities to 4 decimals, and counts only the last caption of a video."""

    name = "retrieval"
    example_form = "matched_captions"
    evaluations = ("retrieval", "multiple_choice")

    @property
    def num_texts(self) -> int:
        """One matching text and the negatives."""
        return 1 + self.num_negatives

    @property
    def head(self) -> ClassifierHeadConfig:
        """The head that this task needs."""
        return ClassifierHeadConfig(num_outputs=2 if self.loss == "ce" else 1)

    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return `ce`, one per text [b n], or `rank`, one per pair of texts of a video [b n n]."""
        logits = pool_clips(output.scores, self.consensus)
        if self.loss == "ce":
            return {"ce": cross_entropy(logits, jnp.asarray(batch.labels))}
        chance = jax.nn.sigmoid(logits[..., 0])
        return {"rank": jax.nn.relu(self.margin + chance[:, None, :] - chance[:, :, None])}

    def loss_weights(self, batch: Batch) -> Losses:
        """Return 1 at real texts, for `rank` at pairs of which the first matches and the second does not."""
        is_real, labels = batch.is_real_text, jnp.asarray(batch.labels)
        if self.loss == "ce":
            return {"ce": is_real.astype(jnp.float32)}
        is_positive, is_negative = is_real & (labels == 1), is_real & (labels == 0)
        return {"rank": (is_positive[:, :, None] & is_negative[:, None, :]).astype(jnp.float32)}

    def match_logit(self, scores: Scores) -> Float[Array, "b n"]:
        """Return the logit that ranks texts and videos: its sigmoid is the original's score.

        A logit rather than a probability, because probabilities saturate into ties.
        """
        logits = pool_clips(scores, self.consensus)
        return logits[..., 1] - logits[..., 0] if self.loss == "ce" else logits[..., 0]

    def as_original(self, num_answers: int) -> Retrieval:
        """Rank as the original's evaluation."""
        return dataclasses.replace(self, ranking_rule="original")
