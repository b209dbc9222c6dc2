"""Losses of the tasks, element by element: tasks weigh, drop padding and average."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, "*m a"], labels: Int[Array, "*m"]) -> Float[Array, "*m"]:
    """Return the softmax cross-entropy; 0 where the label is negative, the mark of "no label"."""
    picked = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(labels >= 0, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0)
