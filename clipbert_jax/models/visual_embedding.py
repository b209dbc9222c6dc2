"""Visual embedding: the grids of a clip's frames -> the clip's visual tokens.

After the pixel encoder, before the cross-modal fusion. Time is averaged away and the place in the
picture is added: row + column + one token type. Follows `VisualInputEmbedding` of
`src/modeling/modeling.py`, section 3 of the paper.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.layers import LayerFactory, dropout


def draw_token_sample(key: jax.Array, num_visual_tokens: int, num_sampled: int = 100) -> Int[Array, " r"]:
    """Draw a sorted random subset of visual tokens, for `sampled_tokens`; all of them if there are fewer.

    The original does so in pretraining only, with one subset for the whole batch.
    """
    return jnp.sort(jax.random.permutation(key, num_visual_tokens)[:num_sampled])


class VisualEmbedding(nnx.Module):
    """Grids [b k t gh gw d] to visual tokens [b k v d]; v runs over rows, then columns."""

    def __init__(self, config: ClipBertConfig, *, rngs: nnx.Rngs):
        self.config = config.fusion
        layers = LayerFactory(config, rngs)
        self.row_embeddings = layers.embedding(self.config.max_grid_rows)
        self.column_embeddings = layers.embedding(self.config.max_grid_columns)
        self.token_type_embeddings = layers.embedding(1)
        self.layer_norm = layers.layer_norm()

    def __call__(
        self,
        grid: Float[Array, "b k t gh gw d"],
        *,
        dropout_key: jax.Array | None = None,
        sampled_tokens: Int[Array, " r"] | None = None,
    ) -> Float[Array, "b k v d"]:
        """Embed the grid; `sampled_tokens` keeps only these visual tokens, the same for all clips."""
        num_rows, num_columns = grid.shape[3:5]
        self._check_grid(num_rows, num_columns)
        x = jnp.mean(grid, axis=2)
        x += self.row_embeddings(jnp.arange(num_rows))[:, None]
        x += self.column_embeddings(jnp.arange(num_columns))
        x = x.reshape(*x.shape[:2], num_rows * num_columns, x.shape[-1])
        if sampled_tokens is not None:
            x = x[:, :, sampled_tokens]
        x = self.layer_norm(x + self.token_type_embeddings(jnp.zeros(1, int)))
        return dropout(x, self.config.dropout_rate, dropout_key)

    def _check_grid(self, num_rows: int, num_columns: int) -> None:
        max_rows, max_columns = self.config.max_grid_rows, self.config.max_grid_columns
        if num_rows > max_rows or num_columns > max_columns:
            raise ValueError(
                f"The frames give a grid of {num_rows} rows x {num_columns} columns, but the position tables "
                f"hold {max_rows} x {max_columns}: feed smaller frames, or raise fusion.max_grid_rows and "
                "fusion.max_grid_columns (checkpoints of the old size then no longer fit)."
            )
