"""Open-ended question answering: which entry of the answer vocabulary is the answer?

Questions of one video share its clips. TGIF
frameQA, MSRVTT-QA, MSVD-QA, ActivityNet-QA; the original's `ClipBertForSequenceClassification` with
cross-entropy.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.losses import cross_entropy
from clipbert_jax.tasks.task import AnswerTask, Losses, Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenEndedQA(AnswerTask):
    """Learns to answer with one entry of an answer vocabulary."""

    name = "open_ended_qa"
    example_form = "open_questions"
    evaluations = ("open_ended_qa",)

    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return the cross-entropy of each question [b n]."""
        return {"ce": cross_entropy(self.answer_logits(output.scores), jnp.asarray(batch.labels))}

    def loss_weights(self, batch: Batch) -> Losses:
        """Return 1 at real questions [b n] whose answer is in the vocabulary."""
        is_answered = batch.is_real_text & (jnp.asarray(batch.labels) >= 0)
        return {"ce": is_answered.astype(jnp.float32)}

    def probe_score(self, scores: Scores, answer: int, num_answers: int) -> Float[Array, "b n"]:
        """Return the log odds of one answer against all others."""
        logits = self.answer_logits(scores)[..., :num_answers]
        others = jax.nn.logsumexp(logits, axis=-1, where=jnp.arange(logits.shape[-1]) != answer)
        return logits[..., answer] - others
