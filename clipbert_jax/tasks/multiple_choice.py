"""Multiple choice: which of the options is right?

Each option is a text of its own, question + " " + option, with one score; the options compete. TGIF-QA action
and transition, MSRVTT-MC with a trained head; the original's `ClipBertForMultipleChoice`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.consensus import pool_clips
from clipbert_jax.models.heads import ClassifierHeadConfig
from clipbert_jax.tasks.losses import cross_entropy
from clipbert_jax.tasks.task import Answers, Losses, Scores, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultipleChoiceQA(Task):
    """Learns to choose one of several written-out options."""

    name = "multiple_choice"
    example_form = "options"
    answer_form = "choice"
    evaluations = ("multiple_choice",)
    probe_unit = "logit"
    output_meaning = "of each option among those of its video"
    probe_question = "How much speaks for “{answer}”, compared with the other options"

    @property
    def head(self) -> ClassifierHeadConfig:
        """The head that this task needs: a score per option."""
        return ClassifierHeadConfig(num_outputs=1)

    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return the cross-entropy over the options of each video [b]; missing options take no part."""
        logits = self.choice_logits(output.scores)
        logits = jnp.where(jnp.asarray(batch.text_valid), logits, jnp.finfo(logits.dtype).min)
        return {"ce": cross_entropy(logits, jnp.asarray(batch.labels))}

    def loss_weights(self, batch: Batch) -> Losses:
        """Return 1 at real videos [b]."""
        return {"ce": jnp.asarray(batch.example_mask).astype(jnp.float32)}

    def choice_logits(self, scores: Scores) -> Float[Array, "b n"]:
        """Return a logit for each option: the highest is the answer."""
        return pool_clips(scores, self.consensus)[..., 0]

    def predict(self, scores: Scores, is_text: Bool[Array, "b n"], num_answers: int) -> Answers:
        """Return the probability of each option among those of its video [b n]; 0 where there is no text."""
        return jax.nn.softmax(self.choice_logits(scores), axis=-1, where=is_text)

    def probe_score(self, scores: Scores, answer: int, num_answers: int) -> Float[Array, "b n"]:
        """Return the logit of each option."""
        return self.choice_logits(scores)

    def label_shapes(self, num_videos: int, num_texts: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape of the labels [b]: the place of the right option."""
        return {"labels": jax.ShapeDtypeStruct((num_videos,), jnp.int32)}
