"""Image question answering with soft scores: how right would people find each answer?

Several answers to a question may be right, each to a degree. After the model and the consensus, before the
train step. VQA v2; the original's `run_vqa.py`, binary cross-entropy times the number of answers.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.consensus import Consensus, pool_clips
from clipbert_jax.models.heads import ClassifierHeadConfig
from clipbert_jax.tasks.losses import binary_cross_entropy
from clipbert_jax.tasks.task import Losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageQA:
    """Learns the score of every answer; images are videos of one frame, but videos do as well."""

    consensus: Consensus = "mean"
    """How the scores of the clips become one."""
    num_answers: int = 0
    """Outputs of the head; 0 takes as many as the data's answer vocabulary has when training starts."""
    num_questions: int = 2
    """Questions of one image that are trained on together, at most."""

    num_sampled_tokens = 0  # all

    @property
    def head(self) -> ClassifierHeadConfig:
        """The head that this task needs: a score per answer."""
        return ClassifierHeadConfig(num_outputs=self.num_answers)

    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return the binary cross-entropy of each question, summed over the answers [b n]."""
        logits = self.answer_logits(output.scores)
        targets = jnp.asarray(batch.labels).astype(logits.dtype)
        return {"bce": jnp.sum(binary_cross_entropy(logits, targets), axis=-1)}

    def loss_weights(self, batch: Batch) -> Losses:
        """Return 1 at real questions [b n]."""
        return {"bce": batch.is_real_text.astype(jnp.float32)}

    def answer_logits(self, scores: Float[Array, "b k n a"]) -> Float[Array, "b n a"]:
        """Return what answers are given by: the highest is the answer."""
        return pool_clips(scores, self.consensus)
