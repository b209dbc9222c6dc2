"""Attention maps: attention between all tokens -> maps over the grid.

Attention is [... s s]: rows attend to columns, and sum to one. `s` is `l` text tokens, then the cells of the
grid row by row, as in the fusion.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Attention = Float[np.ndarray, "*more s s"]
Grid = tuple[int, int]
"""Rows and columns of cells."""


def text_to_grid(attention: Attention, grid: Grid) -> Float[np.ndarray, "*more l gh gw"]:
    """Return the attention of each text token to each cell; the rest of its attention goes to the text.

    The first token is [CLS], whose last state is what the head reads.
    """
    length = _text_length(attention, grid)
    return attention[..., :length, length:].reshape(*attention.shape[:-2], length, *grid)


def grid_to_text(attention: Attention, grid: Grid) -> Float[np.ndarray, "*more l gh gw"]:
    """Return the attention of each cell to each text token."""
    length = _text_length(attention, grid)
    swapped = np.swapaxes(attention[..., length:, :length], -1, -2)
    return swapped.reshape(*attention.shape[:-2], length, *grid)


def rollout(attention: Float[np.ndarray, "layers *more heads s s"]) -> Float[np.ndarray, "*more s s"]:
    """Return attention through all layers: the mean of the heads, averaged with the residual connection.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. It traces
    the last state of a row's token to the first states of the columns, and ignores values and gradients.
    """
    identity = np.eye(attention.shape[-1], dtype=attention.dtype)
    total = identity
    for layer in attention.mean(axis=-3):
        total = (layer + identity) / 2 @ total
    return total


def gradient_weighted(
    attention_times_gradient: Float[np.ndarray, "layers *more heads s s"],
) -> Float[np.ndarray, "layers *more s s"]:
    """Return the positive part of attention times gradient, averaged over heads: what raised the probe score.

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
