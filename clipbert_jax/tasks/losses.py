"""Element-wise losses. Tasks weigh and average them, and leave padding out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, "*m a"], labels: Int[Array, "*m"]) -> Float[Array, "*m"]:
    """Return the softmax cross-entropy; 0 where the label is negative, the mark of "no label"."""
    picked = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(labels >= 0, jax.nn.logsumexp(logits, axis=-1) - picked, 0.0)


def binary_cross_entropy(logits: Float[Array, "*m"], targets: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """Return the cross-entropy of sigmoids with targets in [0, 1]."""
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def squared_error(values: Float[Array, "*m"], targets: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """Return the squared difference."""
    return jnp.square(values - targets)
