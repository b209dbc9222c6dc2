"""Open-ended question answering with a hinge loss: the right answer should lead all others by a margin."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.task import AnswerTask, Losses, Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class HingeQA(AnswerTask):
    """Learns to answer with one entry of an answer vocabulary."""

    margin: float = 1.0
    """Wanted lead of the right answer."""

    name = "hinge_qa"
    example_form = "open_questions"
    evaluations = ("open_ended_qa",)
    probe_unit = "logit"

    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return how far the lead of the right answer is below the margin [b n]."""
        logits, labels = self.answer_logits(output.scores), jnp.asarray(batch.labels)
        return {"hinge": jax.nn.relu(self.margin - _lead(logits, labels))}

    def loss_weights(self, batch: Batch) -> Losses:
        """Return 1 at real questions whose answer is in the vocabulary [b n]."""
        is_known = jnp.asarray(batch.labels) >= 0
        return {"hinge": (batch.is_real_text & is_known).astype(jnp.float32)}

    def probe_score(self, scores: Scores, answer: int, num_answers: int) -> Float[Array, "b n"]:
        """Return the lead of an answer."""
        logits = self.answer_logits(scores)[..., :num_answers]
        return _lead(logits, jnp.full(logits.shape[:-1], answer))


def _lead(logits: Float[Array, "b n a"], labels: Array) -> Float[Array, "b n"]:
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.sum(logits, where=is_label, axis=-1) - jnp.max(
        logits, where=~is_label, initial=-jnp.inf, axis=-1
    )
