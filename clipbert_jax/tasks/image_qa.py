"""Image question answering with soft scores: how right would people find each answer?

Several answers to a question may be right, each to a degree. VQA v2; the original's `run_vqa.py`, binary
cross-entropy times the number of answers.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.losses import binary_cross_entropy
from clipbert_jax.tasks.task import AnswerTask, Losses, Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageQA(AnswerTask):
    """Learns the score of every answer, about images (videos of one frame) or videos."""

    num_questions: int = 2
    """Largest number of questions about one image in a batch."""

    name = "image_qa"
    example_form = "soft_questions"
    evaluations = ("image_qa",)
    output_meaning = "of each answer of answers.json for itself: several may be right"

    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return the binary cross-entropy of each question, summed over the answers [b n]."""
        logits = self.answer_logits(output.scores)
        targets = jnp.asarray(batch.labels).astype(logits.dtype)
        return {"bce": jnp.sum(binary_cross_entropy(logits, targets), axis=-1)}

    def loss_weights(self, batch: Batch) -> Losses:
        """Return 1 at real questions [b n]."""
        return {"bce": batch.is_real_text.astype(jnp.float32)}

    def answer_probabilities(self, logits: Float[Array, "*rows a"]) -> Float[Array, "*rows a"]:
        """Return the probability of each answer, each for itself: several may be right."""
        return jax.nn.sigmoid(logits)

    def probe_score(self, scores: Scores, answer: int, num_answers: int) -> Float[Array, "b n"]:
        """Return the log odds of one answer."""
        return self.answer_logits(scores)[..., answer]

    def label_shapes(self, num_videos: int, num_texts: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape of the labels [b n a]: the score of each answer."""
        return {"labels": jax.ShapeDtypeStruct((num_videos, num_texts, self.num_answers), jnp.float32)}
