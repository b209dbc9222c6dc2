"""Heads: the output of the fusion -> scores of one clip.

Last stage of the model; the consensus over clips comes after. Every head takes the pooled [CLS] state
and the states of the text tokens, and gives scores [b k n a] plus, in pretraining, a distribution over
the vocabulary at each text token. Follows the heads of `src/modeling/modeling.py`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.layers import Frozen, LayerFactory, at_least_float32, dropout

Scores = Float[Array, "b k n a"]
TokenScores = Float[Array, "b k n l vocab"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingHeadConfig:
    """Masked language modelling on the text tokens, and 2-way image-text matching."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierHeadConfig:
    """Retrieval (2 or 1 outputs), question answering (one per answer), multiple choice (1)."""

    num_outputs: int
    """Number of scores per text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegressionHeadConfig:
    """A number per text, for counting."""

    num_outputs: int = 1
    """Number of values per text."""
    use_batch_statistics: bool = False
    """Whether training normalises with the statistics of the batch, per clip, as the original does. Otherwise
    it uses the stored ones, like all other batch norms of the model, so that an example's score does not
    depend on the rest of the batch. The stored statistics never change."""


HeadConfig = PretrainingHeadConfig | ClassifierHeadConfig | RegressionHeadConfig


def make_head(
    head: HeadConfig, config: ClipBertConfig, *, rngs: nnx.Rngs
) -> PretrainingHead | ClassifierHead | RegressionHead:
    """Return the module of a head's configuration."""
    match head:
        case PretrainingHeadConfig():
            return PretrainingHead(config, rngs=rngs)
        case ClassifierHeadConfig():
            return ClassifierHead(head, config, rngs=rngs)
        case RegressionHeadConfig():
            return RegressionHead(head, config, rngs=rngs)


class PretrainingHead(nnx.Module):
    """BERT's MLM head, whose decoder is the word embedding table, and a matching layer (1: match)."""

    reads_text = True

    def __init__(self, config: ClipBertConfig, *, rngs: nnx.Rngs):
        layers = LayerFactory(config, rngs)
        width = config.fusion.hidden_size
        self.transform = layers.dense(width, width)
        self.transform_layer_norm = layers.layer_norm()
        self.decoder_bias = nnx.Param(jnp.zeros(config.fusion.vocab_size, layers.param_dtype))
        self.matching = layers.dense(width, 2, gives_scores=True)

    def __call__(
        self,
        pooled: Float[Array, "b k n d"],
        text_states: Float[Array, "b k n l d"],
        word_table: Float[Array, "vocab d"],
        *,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Scores, TokenScores | None]:
        """Return matching scores and MLM logits; no dropout here, as in BERT."""
        x = jax.nn.gelu(self.transform(text_states), approximate=False)
        x = self.transform_layer_norm(x)
        # Logits over the vocabulary leave the matrix product in full precision.
        token_scores = jnp.einsum(
            "bknld,vd->bknlv",
            x,
            word_table.astype(x.dtype),
            preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
        )
        token_scores += self.decoder_bias[...].astype(token_scores.dtype)
        return self.matching(pooled), token_scores


class ClassifierHead(nnx.Module):
    """Dropout, dense to twice the width, ReLU, dense to the outputs."""

    reads_text = False

    def __init__(self, head: ClassifierHeadConfig, config: ClipBertConfig, *, rngs: nnx.Rngs):
        layers = LayerFactory(config, rngs)
        self.dropout_rate = config.fusion.dropout_rate
        width = config.fusion.hidden_size
        self.hidden = layers.dense(width, 2 * width)
        self.output = layers.dense(2 * width, head.num_outputs, gives_scores=True)

    def __call__(
        self,
        pooled: Float[Array, "b k n d"],
        text_states: Float[Array, "b k n l d"],
        word_table: Float[Array, "vocab d"],
        *,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Scores, TokenScores | None]:
        """Return the scores; the text states are not used."""
        x = jax.nn.relu(self.hidden(dropout(pooled, self.dropout_rate, dropout_key)))
        return self.output(x), None


class RegressionHead(nnx.Module):
    """Dense, ELU, batch norm, dropout, dense."""

    reads_text = False

    def __init__(self, head: RegressionHeadConfig, config: ClipBertConfig, *, rngs: nnx.Rngs):
        layers = LayerFactory(config, rngs)
        self.use_batch_statistics = head.use_batch_statistics
        self.dropout_rate = config.fusion.dropout_rate
        width = config.fusion.hidden_size
        self.regression_hidden = layers.dense(width, width)
        self.regression_norm = _BatchNorm(width, param_dtype=layers.param_dtype)
        self.regression_output = layers.dense(width, head.num_outputs, gives_scores=True)

    def __call__(
        self,
        pooled: Float[Array, "b k n d"],
        text_states: Float[Array, "b k n l d"],
        word_table: Float[Array, "vocab d"],
        *,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Scores, TokenScores | None]:
        """Return the numbers; a dropout key means training."""
        x = jax.nn.elu(self.regression_hidden(pooled))
        is_training = dropout_key is not None
        x = self.regression_norm(x, use_batch_statistics=is_training and self.use_batch_statistics)
        x = dropout(x, self.dropout_rate, dropout_key)
        return self.regression_output(x), None


class _BatchNorm(nnx.Module):
    """Batch norm with trained scale and bias and fixed statistics, or those of the batch."""

    def __init__(self, features: int, *, param_dtype: jax.typing.DTypeLike):
        self.scale = nnx.Param(jnp.ones(features, param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype))
        self.mean = Frozen(jnp.zeros(features, param_dtype))
        self.variance = Frozen(jnp.ones(features, param_dtype))

    def __call__(self, x: Float[Array, "b k n d"], *, use_batch_statistics: bool) -> Float[Array, "b k n d"]:
        dtype, x = x.dtype, at_least_float32(x)
        mean, variance = self.mean[...], self.variance[...]
        if use_batch_statistics:  # clip by clip: the original feeds one clip of each video at a time
            mean = jnp.mean(x, axis=(0, 2), keepdims=True)
            variance = jnp.var(x, axis=(0, 2), keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
        return (x * self.scale[...] + self.bias[...]).astype(dtype)
