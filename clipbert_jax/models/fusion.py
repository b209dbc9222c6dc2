"""Cross-modal fusion: one BERT over the text and the visual tokens of a clip together.

After the text encoder and the visual embedding, before the head. In every layer every token attends
to every other one, so words and places meet in each. Follows `BertEncoder` and `BertPooler` of
transformers 2.11. Letters: `m` sequences (videos x clips x texts), `s` text then visual tokens,
`heads`, `e` width of a head.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.kernel_choices import KernelChoices
from clipbert_jax.models.layers import LayerFactory, at_least_float32, dropout, subkey
from clipbert_jax.models.remat import Remat, rematerialised

Attention = Float[Array, "m heads r s"]
"""Attention probabilities of token r for token s; rows sum to one."""

AttentionScale = Float[Array, "#m #heads #r #s"]
"""Factors of attention: zeros switch heads off; the gradient at ones weighs the effect of each value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSharding:
    """Shardings of the arrays of a layer when devices share its products.

    Without them XLA splits some arrays differently from the weights, and moves both back and forth.
    """

    states: Sharding
    """Sharding of [m s d]: whole; the partial results of the devices, and of the gradient, are summed."""
    split: Sharding
    """Sharding of [m s heads e] and [m s f], which devices divide along the third axis."""


class FusionLayer(nnx.Module):
    """Self-attention and a feed-forward network, each added to its input and then normed (post-LN)."""

    def __init__(self, config: ClipBertConfig, *, rngs: nnx.Rngs, kernels: KernelChoices):
        self.config = config.fusion
        self.kernels = kernels
        self.sharding: LayerSharding | None = None
        layers = LayerFactory(config, rngs)
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
        self,
        x: Float[Array, "m s d"],
        mask: Bool[Array, "m s"],
        *,
        dropout_key: jax.Array | None = None,
        rows: slice = slice(None),
        return_attention: bool = True,
        attention_scale: AttentionScale | None = None,
    ) -> tuple[Float[Array, "m r d"], Attention | None]:
        """Return the next hidden states of the tokens `rows`, and the attention before dropout if wanted.

        `attention_scale` multiplies the weights of the values, not the returned attention.
        """
        rate = self.config.dropout_rate
        x = self._placed("states", x)
        query, key, value = self._query_key_value(x, rows)
        attention = None
        is_fused = self.kernels.has_fused_attention and _fits_fused_attention(query)
        if is_fused and dropout_key is None and not return_attention and attention_scale is None:
            context = _fused_attention(query, key, value, mask)
        else:
            attention = attend(query, key, mask)
            weights = dropout(attention, self.config.attention_dropout_rate, subkey(dropout_key, 0))
            weights = weights if attention_scale is None else weights * attention_scale
            context = _mix(weights, value)
        x = x[:, rows]
        context = self._placed("states", self.attention_output(context.reshape(x.shape)))
        x = self.attention_layer_norm(x + dropout(context, rate, subkey(dropout_key, 1)))
        inner = jax.nn.gelu(
            self._placed("split", self.intermediate(self._placed("states", x))), approximate=False
        )
        output = self._placed("states", self.output(inner))
        x = self.output_layer_norm(x + dropout(output, rate, subkey(dropout_key, 2)))
        return x, attention

    def _query_key_value(
        self, x: Float[Array, "m s d"], rows: slice
    ) -> tuple[Float[Array, "m r heads e"], Float[Array, "m s heads e"], Float[Array, "m s heads e"]]:
        projected = self.query(x[:, rows]), self.key(x), self.value(x)
        heads = (y.reshape(*y.shape[:2], self.config.num_heads, -1) for y in projected)
        query, key, value = (self._placed("split", y) for y in heads)
        return query, key, value

    def _placed(self, what: Literal["states", "split"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        if self.sharding is None:
            return x
        return jax.lax.with_sharding_constraint(x, getattr(self.sharding, what))


def attend(
    query: Float[Array, "m r heads e"], key: Float[Array, "m s heads e"], mask: Bool[Array, "m s"]
) -> Attention:
    """Return the attention probabilities, in at least float32."""
    logits = at_least_float32(jnp.einsum("mqhe,mkhe->mhqk", query, key)) / math.sqrt(query.shape[-1])
    logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits, axis=-1)


def _mix(attention: Attention, value: Float[Array, "m s heads e"]) -> Float[Array, "m r heads e"]:
    return jnp.einsum("mhqk,mkhe->mqhe", attention.astype(value.dtype), value)


def _fits_fused_attention(query: Float[Array, "m r heads e"]) -> bool:
    """Return whether cuDNN takes heads of this width and data type."""
    return query.dtype == jnp.bfloat16 and query.shape[-1] % 8 == 0 and query.shape[-1] <= 128


@jax.custom_vjp
def _fused_attention(query: Array, key: Array, value: Array, mask: Array) -> Float[Array, "m r heads e"]:
    """Attend and mix in one cuDNN kernel, which does not return the attention."""
    mask = jnp.broadcast_to(mask[:, None, None], (len(mask), 1, query.shape[1], mask.shape[-1]))
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")


def _fused_attention_backward(kept: tuple[Array, ...], gradient: Array) -> tuple[Array | None, ...]:
    # cuDNN has no gradient for masks with sequences of arbitrary length, so this is the plain one.
    *operands, mask = kept
    _, pull_back = jax.vjp(lambda query, key, value: _mix(attend(query, key, mask), value), *operands)
    return *pull_back(gradient), None


_fused_attention.defvjp(lambda *operands: (_fused_attention(*operands), operands), _fused_attention_backward)


class CrossModalFusion(nnx.Module):
    """The layers and the pooler."""

    def __init__(self, config: ClipBertConfig, *, rngs: nnx.Rngs, kernels: KernelChoices):
        self.remat: Remat = "none"
        layers = LayerFactory(config, rngs)
        self.layers = nnx.List(
            FusionLayer(config, rngs=rngs, kernels=kernels) for _ in range(config.fusion.num_layers)
        )
        self.pooler = layers.dense(config.fusion.hidden_size, config.fusion.hidden_size)

    def __call__(
        self,
        x: Float[Array, "m s d"],
        mask: Bool[Array, "m s"],
        *,
        dropout_key: jax.Array | None = None,
        attention_scale: Float[Array, "layers ..."] | None = None,
    ) -> tuple[tuple[Float[Array, "m s d"], ...], tuple[Attention, ...]]:
        """Return the input of every layer followed by the last output, and every layer's attention.

        Args:
          x: embedded tokens, text then visual.
          mask: True where a token exists; no token attends to the others.
          dropout_key: None for no dropout.
          attention_scale: an `AttentionScale` for every layer.
        """
        hidden_states, attention = [x], []
        for index in range(len(self.layers)):
            scale = None if attention_scale is None else attention_scale[index]
            x, layer_attention = self._run_layer(index, x, mask, dropout_key, attention_scale=scale)
            hidden_states.append(x)
            attention.append(layer_attention)
        return tuple(hidden_states), tuple(attention)

    def last_states(
        self,
        x: Float[Array, "m s d"],
        mask: Bool[Array, "m s"],
        rows: slice,
        *,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "m r d"]:
        """Return the last hidden states of the tokens `rows`, the only ones that the last layer computes."""
        last = len(self.layers) - 1
        for index in range(last):
            x, _ = self._run_layer(index, x, mask, dropout_key, return_attention=False)
        return self._run_layer(last, x, mask, dropout_key, rows=rows, return_attention=False)[0]

    def _run_layer(
        self,
        index: int,
        x: Float[Array, "m s d"],
        mask: Bool[Array, "m s"],
        dropout_key: jax.Array | None,
        **options: Any,
    ) -> tuple[Float[Array, "m r d"], Attention | None]:
        layer = rematerialised(functools.partial(self.layers[index], **options), self.remat)
        return layer(x, mask, dropout_key=subkey(dropout_key, index))

    def pool(self, cls_state: Float[Array, "m d"]) -> Float[Array, "m d"]:
        """Summarise each sequence by the last state of its first token, [CLS]."""
        return jnp.tanh(self.pooler(cls_state))
