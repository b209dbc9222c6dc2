"""Cross-modal fusion: one BERT over the text and the visual tokens of a clip together.

After the text encoder and the visual embedding, before the head. Every layer lets every token look at
every other one, so word and place meet in each of them. Follows `BertEncoder` and `BertPooler` of
transformers 2.11. Letters: `m` sequences (videos x clips x texts), `s` text then visual tokens,
`heads`, `e` width of a head.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.layers import LayerFactory, at_least_float32, dropout, subkey

Attention = Float[Array, "m heads s s"]
"""Attention probabilities: who looks (first s) at whom (second s); rows sum to one."""


class FusionLayer(nnx.Module):
    """Self-attention and a feed-forward network, each added to its input and then normed (post-LN)."""

    def __init__(self, config: ClipBertConfig, *, rngs: nnx.Rngs, param_dtype: jax.typing.DTypeLike):
        self.config = config.fusion
        layers = LayerFactory(config, param_dtype, rngs)
        width, inner_width = self.config.hidden_size, self.config.intermediate_size
        self.query = layers.dense(width, width)
        self.key = layers.dense(width, width)
        self.value = layers.dense(width, width)
        self.attention_output = layers.dense(width, width)
        self.attention_layer_norm = layers.layer_norm()
        self.intermediate = layers.dense(width, inner_width)
        self.output = layers.dense(inner_width, width)
        self.output_layer_norm = layers.layer_norm()

    def __call__(
        self, x: Float[Array, "m s d"], mask: Bool[Array, "m s"], *, dropout_key: jax.Array | None = None
    ) -> tuple[Float[Array, "m s d"], Attention]:
        """Return the next hidden states and the attention before dropout."""
        rate = self.config.dropout_rate
        attention = self._attention(x, mask)
        weights = dropout(attention, self.config.attention_dropout_rate, subkey(dropout_key, 0))
        context = jnp.einsum("mhqk,mkhe->mqhe", weights.astype(x.dtype), self._heads(self.value(x)))
        context = self.attention_output(context.reshape(x.shape))
        x = self.attention_layer_norm(x + dropout(context, rate, subkey(dropout_key, 1)))
        inner = jax.nn.gelu(self.intermediate(x), approximate=False)
        return self.output_layer_norm(
            x + dropout(self.output(inner), rate, subkey(dropout_key, 2))
        ), attention

    def _heads(self, x: Float[Array, "m s d"]) -> Float[Array, "m s heads e"]:
        return x.reshape(*x.shape[:2], self.config.num_heads, -1)

    def _attention(self, x: Float[Array, "m s d"], mask: Bool[Array, "m s"]) -> Attention:
        query, key = self._heads(self.query(x)), self._heads(self.key(x))
        logits = at_least_float32(jnp.einsum("mqhe,mkhe->mhqk", query, key)) / math.sqrt(query.shape[-1])
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
        return jax.nn.softmax(logits, axis=-1)


class CrossModalFusion(nnx.Module):
    """The layers and the pooler."""

    def __init__(
        self, config: ClipBertConfig, *, rngs: nnx.Rngs, param_dtype: jax.typing.DTypeLike = jnp.float32
    ):
        layers = LayerFactory(config, param_dtype, rngs)
        self.layers = nnx.List(
            FusionLayer(config, rngs=rngs, param_dtype=param_dtype) for _ in range(config.fusion.num_layers)
        )
        self.pooler = layers.dense(config.fusion.hidden_size, config.fusion.hidden_size)

    def __call__(
        self, x: Float[Array, "m s d"], mask: Bool[Array, "m s"], *, dropout_key: jax.Array | None = None
    ) -> tuple[tuple[Float[Array, "m s d"], ...], tuple[Attention, ...]]:
        """Return the input of every layer followed by the last output, and every layer's attention.

        Args:
          x: embedded tokens, text then visual.
          mask: True where a token exists; the others are looked at by none.
          dropout_key: None for no dropout.
        """
        hidden_states, attention = [x], []
        for index, layer in enumerate(self.layers):
            x, layer_attention = layer(x, mask, dropout_key=subkey(dropout_key, index))
            hidden_states.append(x)
            attention.append(layer_attention)
        return tuple(hidden_states), tuple(attention)

    def pool(self, hidden: Float[Array, "m s d"]) -> Float[Array, "m d"]:
        """Summarise each sequence by its first token, [CLS]."""
        return jnp.tanh(self.pooler(hidden[:, 0]))
