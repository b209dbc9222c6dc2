"""Hides tokens of texts for masked language modelling, as BERT does (Devlin et al., section 3.1).

The loader and the evaluator of pretraining call it. It draws from the random key of an example, so the same
tokens are hidden for any number of workers and after a resume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32

from clipbert_jax.errors import UserError
from clipbert_jax.tasks.pretraining import Masking
from data_pipelines.tokenizer import SPECIAL_TOKENS

NO_LABEL = -1
"""Label of a token that the model need not guess."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MaskingVocabulary:
    """Special tokens of a vocabulary."""

    mask_id: int
    """Index of [MASK]."""
    is_special: Bool[np.ndarray, " vocab_size"]
    """True for [PAD], [UNK], [CLS], [SEP] and [MASK]."""

    @classmethod
    def from_tokens(cls, tokens: Sequence[str]) -> MaskingVocabulary:
        """Find the special tokens among all tokens of a vocabulary, in the order of their ids.

        Raises:
          UserError: there is no [MASK].
        """
        if "[MASK]" not in tokens:
            raise UserError(
                "the vocabulary has no [MASK] token, which masking needs: use another, such as BERT's or "
                "that of a prepare command"
            )
        is_special = np.array([token in SPECIAL_TOKENS for token in tokens])
        return cls(mask_id=tokens.index("[MASK]"), is_special=is_special)


def mask_tokens(
    ids: Int[np.ndarray, "n l"],
    mask: Bool[np.ndarray, "n l"],
    vocabulary: MaskingVocabulary,
    masking: Masking,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "n l"], Int32[np.ndarray, "n l"]]:
    """Select tokens at random and hide them.

    Special tokens and padding are never selected. A text without a selected token weighs 0 in the loss.

    Args:
      ids: token ids.
      mask: True at real tokens.
      vocabulary: special tokens of the ids.
      masking: probabilities.
      rng: generator of all draws.

    Returns:
      The ids with hidden tokens, and the labels: the original id where a token was selected, else -1.
    """
    is_ordinary = ~vocabulary.is_special
    candidates = np.flatnonzero(is_ordinary | masking.may_replace_by_special)
    is_selected = mask & is_ordinary[ids] & (rng.random(ids.shape) < masking.mask_prob)
    fate = rng.random(ids.shape)
    return apply_masking(
        ids,
        is_selected=is_selected,
        is_masked=fate < masking.mask_token_prob,
        is_random=fate < masking.mask_token_prob + masking.random_token_prob,
        random_ids=candidates[rng.integers(len(candidates), size=ids.shape)],
        mask_id=vocabulary.mask_id,
    )


def apply_masking(
    ids: Int[np.ndarray, "n l"],
    *,
    is_selected: Bool[np.ndarray, "n l"],
    is_masked: Bool[np.ndarray, "n l"],
    is_random: Bool[np.ndarray, "n l"],
    random_ids: Int[np.ndarray, "n l"],
    mask_id: int,
) -> tuple[Int[np.ndarray, "n l"], Int32[np.ndarray, "n l"]]:
    """Hide the selected tokens, given all random draws.

    Args:
      ids: token ids.
      is_selected: True at the tokens to guess; the other draws matter only there.
      is_masked: True at selected tokens that become `mask_id`.
      is_random: True at other selected tokens that become their `random_ids`.
      random_ids: one per token.
      mask_id: id of [MASK].

    Returns:
      The ids with hidden tokens, and the labels: the original id where a token is selected, else -1.
    """
    hidden = np.where(is_masked, mask_id, np.where(is_random, random_ids, ids))
    labels = np.where(is_selected, ids, NO_LABEL).astype(np.int32)
    return np.where(is_selected, hidden, ids).astype(ids.dtype), labels
