"""Text encoder: token ids -> text embeddings, as BERT embeds them.

Beside the visual embedding, before the cross-modal fusion, which does all the contextual work.
Follows `BertEmbeddings` of transformers 2.11.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.layers import LayerFactory, dropout


class TextEncoder(nnx.Module):
    """Text ids [b n l] to embeddings [b n l d]: word + position + type 0, layer norm, dropout."""

    def __init__(self, config: ClipBertConfig, *, rngs: nnx.Rngs):
        self.config = config.fusion
        layers = LayerFactory(config, rngs)
        self.word_embeddings = layers.embedding(self.config.vocab_size)
        self.position_embeddings = layers.embedding(self.config.max_text_length)
        self.token_type_embeddings = layers.embedding(self.config.num_token_types)
        self.layer_norm = layers.layer_norm()

    def __call__(
        self, text_ids: Int[Array, "b n l"], *, dropout_key: jax.Array | None = None
    ) -> Float[Array, "b n l d"]:
        """Embed the texts; padding tokens too, the fusion masks them."""
        length, max_length = text_ids.shape[-1], self.config.max_text_length
        if length > max_length:
            raise ValueError(
                f"Texts of {length} tokens do not fit the {max_length} rows of the position table: "
                "lower the text length of the data, or raise fusion.max_text_length."
            )
        x = self.word_embeddings(text_ids)
        x += self.position_embeddings(jnp.arange(length))
        x += self.token_type_embeddings(jnp.zeros(1, int))
        return dropout(self.layer_norm(x), self.config.dropout_rate, dropout_key)
