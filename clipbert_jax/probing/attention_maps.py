"""Attention maps: attention of all tokens to all tokens -> pictures of who looks at what.

Attention is [... s s], who looks (rows) at whom (columns); rows sum to one. `s` is `l` text tokens, then the
cells of the grid row by row, as the fusion has them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Attention = Float[np.ndarray, "*more s s"]
Grid = tuple[int, int]
"""Rows and columns of cells."""


def text_to_grid(attention: Attention, grid: Grid) -> Float[np.ndarray, "*more l gh gw"]:
    """Return how much each text token looks at each cell; what is missing to one it gives to the text.

    The first token is [CLS], whose last state is what the head reads.
    """
    length = _text_length(attention, grid)
    return attention[..., :length, length:].reshape(*attention.shape[:-2], length, *grid)


def grid_to_text(attention: Attention, grid: Grid) -> Float[np.ndarray, "*more l gh gw"]:
    """Return how much each cell looks at each text token."""
    length = _text_length(attention, grid)
    looks = np.swapaxes(attention[..., length:, :length], -1, -2)
    return looks.reshape(*attention.shape[:-2], length, *grid)


def rollout(attention: Float[np.ndarray, "layers *more heads s s"]) -> Float[np.ndarray, "*more s s"]:
    """Return attention through all layers: the mean of the heads, half of it replaced by what passes by.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. The last state of a row's token
    comes from the columns' first states, so far as attention tells: it knows nothing of values and gradients.
    """
    identity = np.eye(attention.shape[-1], dtype=attention.dtype)
    total = identity
    for layer in attention.mean(axis=-3):
        total = (layer + identity) / 2 @ total
    return total


def gradient_weighted(
    attention_times_gradient: Float[np.ndarray, "layers *more heads s s"],
) -> Float[np.ndarray, "layers *more s s"]:
    """Return the positive part of attention times gradient, mean over heads: what raised the number.

    Chefer et al., "Generic Attention-model Explainability", ICCV 2021, equation 5, by layer.
    """
    return np.maximum(attention_times_gradient, 0).mean(axis=-3)


def _text_length(attention: Attention, grid: Grid) -> int:
    length = attention.shape[-1] - grid[0] * grid[1]
    if length < 1 or attention.shape[-2] != attention.shape[-1]:
        raise ValueError(
            f"attention of shape {attention.shape} does not have {grid[0]} x {grid[1]} cells after its text"
        )
    return length
