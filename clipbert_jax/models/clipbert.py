"""ClipBERT, from the pixels of a few short clips and some texts to a score for every pair.

Read this first. The corridor inside the model:

    frames [b k t h w 3] -> pixel encoder -> visual embedding -> visual tokens [b k v d] --+
    text_ids [b n l]     -> text encoder  -> text embeddings  [b n l d] ------------------+--> fusion
    fusion [b*k*n, l+v, d] -> pooler, head -> scores [b k n a]        (consensus over k comes after)

Each clip meets each text alone, so clips fold into the batch. Encoding a video and scoring texts against
it are two methods: retrieval encodes every video once and scores it against many texts.
Paper: Lei et al., "Less is More: ClipBERT for Video-and-Language Learning via Sparse Sampling", CVPR 2021.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.fusion import CrossModalFusion
from clipbert_jax.models.heads import HeadConfig, make_head
from clipbert_jax.models.kernel_choices import KernelChoices, default_kernel_choices
from clipbert_jax.models.layers import subkey
from clipbert_jax.models.model_def import ModelDef, Parameters, split_model
from clipbert_jax.models.pixel_encoder import PixelEncoder
from clipbert_jax.models.text_encoder import TextEncoder
from clipbert_jax.models.visual_embedding import VisualEmbedding

# Index of each part of the model in the dropout key.
_VISUAL_KEY, _TEXT_KEY, _FUSION_KEY, _HEAD_KEY = range(4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipBertOutput:
    """Output of the model for every (video, clip, text).

    Attributes:
      scores: the head's outputs, in at least float32.
      token_scores: logits over the vocabulary at every text token; None unless the head pretrains.
      pooled: summary of the clip and the text together, the head's input.
      attention: if asked for, one [b k n heads s s] per layer: softmax over the last axis, before dropout.
      hidden_states: if asked for, one [b k n s d] per layer and the last output; s is text, then visual.
    """

    scores: Float[Array, "b k n a"]
    token_scores: Float[Array, "b k n l vocab"] | None
    pooled: Float[Array, "b k n d"]
    attention: tuple[Float[Array, "b k n heads s s"], ...] | None = None
    hidden_states: tuple[Float[Array, "b k n s d"], ...] | None = None


class ClipBert(nnx.Module):
    """The whole model. `rngs` only draws the first weights; the module keeps no random state.

    All randomness of a call comes from `dropout_key`; without one the call is deterministic.
    `nnx.split(model, nnx.Param, ...)` gives the trainable parameters, all other variables are frozen.
    """

    def __init__(
        self,
        config: ClipBertConfig,
        head: HeadConfig,
        *,
        rngs: nnx.Rngs,
        kernels: KernelChoices | None = None,
    ):
        if jax.dtypes.canonicalize_dtype(config.compute_dtype) != jnp.dtype(config.compute_dtype):
            raise ValueError("compute_dtype float64 needs JAX's 64-bit mode: set JAX_ENABLE_X64=1.")
        self.config = config
        self.kernels = kernels or default_kernel_choices()
        self.pixel_encoder = PixelEncoder(config, rngs=rngs, kernels=self.kernels)
        self.visual_embedding = VisualEmbedding(config, rngs=rngs)
        self.text_encoder = TextEncoder(config, rngs=rngs)
        self.fusion = CrossModalFusion(config, rngs=rngs, kernels=self.kernels)
        self.head = make_head(head, config, rngs=rngs)

    def __call__(
        self,
        frames: Real[ArrayLike, "b k t h w 3"],
        text_ids: Int[ArrayLike, "b n l"],
        text_mask: Bool[ArrayLike, "b n l"],
        *,
        dropout_key: jax.Array | None = None,
        sampled_tokens: Int[ArrayLike, " r"] | None = None,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ) -> ClipBertOutput:
        """Score every text against every clip of its video; arguments as in the two methods below."""
        visual_tokens = self.encode_video(frames, dropout_key=dropout_key, sampled_tokens=sampled_tokens)
        return self.score_texts(
            visual_tokens,
            text_ids,
            text_mask,
            dropout_key=dropout_key,
            return_attention=return_attention,
            return_hidden_states=return_hidden_states,
        )

    def encode_video(
        self,
        frames: Real[ArrayLike, "b k t h w 3"],
        *,
        dropout_key: jax.Array | None = None,
        sampled_tokens: Int[ArrayLike, " r"] | None = None,
    ) -> Float[Array, "b k v d"]:
        """Turn each clip into visual tokens, independent of any text.

        Args:
          frames: RGB, 0-255, uint8 (or already interpolated floats), zeros where padded.
          dropout_key: None for no dropout.
          sampled_tokens: keep only these visual tokens (`draw_token_sample`), as in pretraining.
        """
        return self.visual_embedding(
            self.pixel_encoder(jnp.asarray(frames)),
            dropout_key=subkey(dropout_key, _VISUAL_KEY),
            sampled_tokens=None if sampled_tokens is None else jnp.asarray(sampled_tokens),
        )

    def score_texts(
        self,
        visual_tokens: Float[Array, "b k v d"],
        text_ids: Int[ArrayLike, "b n l"],
        text_mask: Bool[ArrayLike, "b n l"],
        *,
        visual_mask: Bool[ArrayLike, "b k v"] | None = None,
        attention_scale: Float[ArrayLike, "layers ..."] | None = None,
        dropout_key: jax.Array | None = None,
        return_attention: bool = False,
        return_hidden_states: bool = False,
    ) -> ClipBertOutput:
        """Score the texts of each video against its encoded clips.

        Args:
          visual_tokens: from `encode_video`.
          text_ids: n texts for each video.
          text_mask: True at real tokens; the others change nothing.
          visual_mask: False at visual tokens that are hidden from all others; None hides none.
          attention_scale: factors of the attention of each layer, after the softmax, that broadcast to
            [layers b k n heads s s]; None leaves it as it is.
          dropout_key: None for no dropout.
          return_attention: also return the attention of every layer.
          return_hidden_states: also return the input of every layer and the last output.
        """
        text_ids, text_mask = jnp.asarray(text_ids), jnp.asarray(text_mask)
        text = self.text_encoder(text_ids, dropout_key=subkey(dropout_key, _TEXT_KEY))
        is_seen = jnp.ones(visual_tokens.shape[:3], bool) if visual_mask is None else jnp.asarray(visual_mask)
        tokens, mask = _pair(text, text_mask, visual_tokens, is_seen)
        pairs = tokens.shape[:3]  # b k n
        tokens, mask = tokens.reshape(-1, *tokens.shape[3:]), mask.reshape(-1, mask.shape[-1])
        fusion_key = subkey(dropout_key, _FUSION_KEY)
        hidden_states, attention = None, None
        is_all_wanted = return_attention or return_hidden_states or attention_scale is not None
        if is_all_wanted or not self.kernels.trims_last_layer:
            scale = None
            if attention_scale is not None:
                scale = _fold(jnp.asarray(attention_scale), pairs, len(self.fusion.layers))
            hidden_states, attention = self.fusion(
                tokens, mask, dropout_key=fusion_key, attention_scale=scale
            )
            states = hidden_states[-1]
        else:
            rows = slice(text_ids.shape[-1] if self.head.reads_text else 1)
            states = self.fusion.last_states(tokens, mask, rows, dropout_key=fusion_key)
        pooled = self.fusion.pool(states[:, 0])
        states, hidden_states, attention, pooled = jax.tree.map(
            lambda x: x.reshape(*pairs, *x.shape[1:]), (states, hidden_states, attention, pooled)
        )
        scores, token_scores = self.head(
            pooled,
            states[..., : text_ids.shape[-1], :],
            self.text_encoder.word_embeddings.embedding[...],
            dropout_key=subkey(dropout_key, _HEAD_KEY),
        )
        return ClipBertOutput(
            scores=scores,
            token_scores=token_scores,
            pooled=pooled,
            attention=attention if return_attention else None,
            hidden_states=hidden_states if return_hidden_states else None,
        )


@functools.lru_cache(maxsize=4)
def model_shapes(
    config: ClipBertConfig, head: HeadConfig, kernels: KernelChoices | None = None
) -> tuple[ModelDef, Parameters, Parameters]:
    """Return a model's definition, trainable and frozen arrays as shapes; the first call takes seconds."""
    kernels = kernels or default_kernel_choices()
    has_x64 = jax.dtypes.canonicalize_dtype("float64") == jnp.dtype("float64")
    model_def, trainable, frozen = _model_shapes(config, head, kernels, has_x64)
    return model_def, dict(trainable), dict(frozen)


@functools.lru_cache(maxsize=8)
def _model_shapes(
    config: ClipBertConfig, head: HeadConfig, kernels: KernelChoices, has_x64: bool
) -> tuple[ModelDef, Parameters, Parameters]:
    """Return what `model_shapes` does; `has_x64` decides whether a model of float64 can be built."""
    return split_model(nnx.eval_shape(lambda: ClipBert(config, head, rngs=nnx.Rngs(0), kernels=kernels)))


def _fold(
    scale: Float[Array, "layers ..."], pairs: tuple[int, ...], num_layers: int
) -> Float[Array, "layers m ..."]:
    if len(scale) != num_layers:
        raise ValueError(f"attention_scale is for {len(scale)} layers, and the model has {num_layers}")
    scale = jnp.broadcast_to(scale, (num_layers, *pairs, *scale.shape[4:]))
    return scale.reshape(num_layers, -1, *scale.shape[4:])


def _pair(
    text: Float[Array, "b n l d"],
    text_mask: Bool[Array, "b n l"],
    visual_tokens: Float[Array, "b k v d"],
    visual_mask: Bool[Array, "b k v"],
) -> tuple[Float[Array, "b k n s d"], Bool[Array, "b k n s"]]:
    """Put every text before every clip of its video; visual tokens of padded pixels are real ones too."""
    b, k, v, d = visual_tokens.shape
    n, length = text.shape[1:3]
    tokens = jnp.concatenate(
        [
            jnp.broadcast_to(text[:, None], (b, k, n, length, d)),
            jnp.broadcast_to(visual_tokens[:, :, None], (b, k, n, v, d)),
        ],
        axis=-2,
    )
    mask = jnp.concatenate(
        [
            jnp.broadcast_to(text_mask[:, None], (b, k, n, length)),
            jnp.broadcast_to(visual_mask[:, :, None], (b, k, n, v)),
        ],
        axis=-1,
    )
    return tokens, mask
