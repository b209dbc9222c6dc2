"""Small parts that the pixel encoder, the text encoder, the fusion and the heads share.

Arithmetic runs in `ClipBertConfig.compute_dtype`; layer-norm statistics in at least float32.
Nothing here holds random state: dropout is a function of a key, and no key means no dropout.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from clipbert_jax.config import ClipBertConfig


class Frozen(nnx.Variable):
    """A weight that is loaded and saved but never trained: `nnx.split(model, nnx.Param, ...)` skips it."""


@dataclasses.dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of one model, all with the same initialiser, data types and epsilon."""

    config: ClipBertConfig
    rngs: nnx.Rngs

    @property
    def param_dtype(self) -> jnp.dtype:
        """Data type of parameters: float32, or float64 if the model computes in it."""
        return jnp.promote_types(self.config.compute_dtype, jnp.float32)

    @property
    def _weight_init(self) -> jax.nn.initializers.Initializer:
        return jax.nn.initializers.normal(self.config.fusion.initializer_range)

    def dense(self, in_features: int, out_features: int, *, gives_scores: bool = False) -> nnx.Linear:
        """Return an affine layer with small normal weights and zero bias.

        A layer that gives scores computes in at least float32: rankings depend on differences that bfloat16
        cannot hold.
        """
        dtype = jnp.dtype(self.config.compute_dtype)
        return nnx.Linear(
            in_features,
            out_features,
            kernel_init=self._weight_init,
            dtype=self.param_dtype if gives_scores else dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def embedding(self, num_rows: int) -> nnx.Embed:
        """Return a table of `num_rows` vectors of the hidden size."""
        return nnx.Embed(
            num_rows,
            self.config.fusion.hidden_size,
            embedding_init=self._weight_init,
            dtype=jnp.dtype(self.config.compute_dtype),
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def layer_norm(self) -> nnx.LayerNorm:
        """Return a layer norm over the hidden size, with the two-pass variance."""
        return nnx.LayerNorm(
            self.config.fusion.hidden_size,
            epsilon=self.config.fusion.layer_norm_eps,
            use_fast_variance=False,
            dtype=jnp.dtype(self.config.compute_dtype),
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )


def subkey(key: jax.Array | None, index: int) -> jax.Array | None:
    """Return the dropout key of part `index`; no key stays no key."""
    return None if key is None else jax.random.fold_in(key, index)


def dropout(x: Float[Array, "*shape"], rate: float, key: jax.Array | None) -> Float[Array, "*shape"]:
    """Zero elements with probability `rate` and scale up the others; the identity without a key."""
    if key is None or rate == 0.0:
        return x
    is_kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(is_kept, x / (1.0 - rate), jnp.zeros_like(x))


def at_least_float32(x: Array) -> Array:
    """Return x in float32, or in float64 if it is so already."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
