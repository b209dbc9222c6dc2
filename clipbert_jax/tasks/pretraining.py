"""Pretraining on captions: masked language modelling, and does this text describe this image or video?

Paper section 3.3; the original's
`ClipBertForPreTraining` and `run_pretrain.py`, which know images only.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clipbert_jax.batch import Batch
from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.consensus import pool_clips
from clipbert_jax.models.heads import PretrainingHeadConfig
from clipbert_jax.tasks.losses import cross_entropy
from clipbert_jax.tasks.task import Losses, MatchTask, Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking:
    """Masking of words: the tokens that the model has to guess, and what replaces them.

    Raises:
      UserError: a probability is not from 0 to 1, or those of a selected token exceed 1.
    """

    mask_prob: float = 0.15
    """Probability that an ordinary token is selected; a text may have no selected token."""
    mask_token_prob: float = 0.8
    """Probability that a selected token becomes [MASK]."""
    random_token_prob: float = 0.1
    """Probability that a selected token becomes a random one; the remaining ones stay as they are."""
    may_replace_by_special: bool = False
    """Draw random tokens from the whole vocabulary, [PAD] and [SEP] included, as the original does."""

    def __post_init__(self) -> None:
        for name in ("mask_prob", "mask_token_prob", "random_token_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"masking: {name} must be from 0 to 1, not {getattr(self, name)}")
        if self.mask_token_prob + self.random_token_prob > 1 + 1e-9:
            raise UserError(
                f"masking: mask_token_prob {self.mask_token_prob} and random_token_prob "
                f"{self.random_token_prob} must add up to at most 1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining(MatchTask):
    """Learns words and matching from captions of images or videos."""

    num_captions: int = 2
    """Largest number of captions of one image in a batch."""
    mismatch_share: float = 0.5
    """Probability that a caption is replaced by one of another image."""
    masking: Masking = Masking()
    """Masking of words."""
    num_sampled_tokens: int = 100
    """Number of random visual tokens that training keeps, the same for the whole batch; 0 keeps all."""
    masked_lm_on: Literal["matching", "all"] = "matching"
    """Captions from which words are learned; `all` includes mismatching ones, as in the original."""
    masked_lm_average: Literal["masked", "all"] = "masked"
    """Tokens that the word loss is averaged over; `all` includes padding, as in the original."""

    name = "pretraining"
    example_form = "masked_captions"
    evaluations = ("pretraining", "retrieval", "multiple_choice")

    @property
    def num_texts(self) -> int:
        """Captions of one image."""
        return self.num_captions

    @property
    def head(self) -> PretrainingHeadConfig:
        """The head that this task needs."""
        return PretrainingHeadConfig()

    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return `masked_lm` of every token [b n l] and `matching` of every text [b n]."""
        token_labels = jnp.where(self._is_learned(batch), jnp.asarray(batch.token_labels), -1)
        return {
            "masked_lm": cross_entropy(self.token_logits(output), token_labels),
            "matching": cross_entropy(pool_clips(output.scores, self.consensus), jnp.asarray(batch.labels)),
        }

    def loss_weights(self, batch: Batch) -> Losses:
        """Return 1 at masked tokens [b n l] (or all), and at real texts [b n]."""
        is_learned, is_real = self._is_learned(batch), batch.is_real_text
        is_counted = is_learned if self.masked_lm_average == "masked" else is_real[..., None]
        return {
            "masked_lm": jnp.broadcast_to(is_counted, is_learned.shape).astype(jnp.float32),
            "matching": is_real.astype(jnp.float32),
        }

    def _is_learned(self, batch: Batch) -> Array:
        """Return where a token [b n l] is to be predicted."""
        is_learned = (jnp.asarray(batch.token_labels) >= 0) & batch.is_real_text[..., None]
        if self.masked_lm_on == "matching":
            is_learned &= (jnp.asarray(batch.labels) == 1)[..., None]
        return is_learned

    def token_logits(self, output: ClipBertOutput) -> Float[Array, "b n l vocab"]:
        """Return the logits of the words, pooled over the clips."""
        assert output.token_scores is not None, "the pretraining head gives them"
        return pool_clips(output.token_scores, self.consensus)

    def match_logit(self, scores: Scores) -> Float[Array, "b n"]:
        """Return the logit that ranks texts and videos without any fine-tuning."""
        logits = pool_clips(scores, self.consensus)
        return logits[..., 1] - logits[..., 0]

    def label_shapes(self, num_videos: int, num_texts: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes of the labels of texts [b n] and tokens [b n l]."""
        texts = jax.ShapeDtypeStruct((num_videos, num_texts), jnp.int32)
        tokens = jax.ShapeDtypeStruct((num_videos, num_texts, length), jnp.int32)
        return {"labels": texts, "token_labels": tokens}

    def check(self) -> None:
        """Refuse a negative number of visual tokens."""
        if self.num_sampled_tokens < 0:
            raise UserError(f"--task.num-sampled-tokens must be at least 0, not {self.num_sampled_tokens}")

    def as_original(self, num_answers: int) -> Pretraining:
        """Learn words from all captions, and replace them by special tokens too."""
        masking = dataclasses.replace(self.masking, may_replace_by_special=True)
        return dataclasses.replace(self, masked_lm_on="all", masked_lm_average="all", masking=masking)
