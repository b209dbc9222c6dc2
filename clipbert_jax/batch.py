"""The contract of the corridor: everything before makes a `Batch`, everything after eats one.

Axis letters: `b` videos, `k` clips, `t` frames per clip, `h w` pixels, `n` texts per video,
`l` text length.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch of videos, each with its sampled clips and its texts; NumPy or JAX arrays.

    Attributes:
      frames: RGB pixels, 0-255, resized so that the longer side is the model's size and padded
        with zeros at the bottom or the right.
      text_ids: token ids; row n of a video is one text (a caption, a question, an option).
      text_mask: True at real tokens, False at text padding.
      text_valid: True where a text exists; videos with fewer texts are filled with False rows.
      labels: right answers by task: retrieval [b n] (1 match, 0 mismatch), multiple choice [b]
        (index of the right option), open-ended question answering [b n] (index of the answer),
        counting [b n] (the number), image question answering [b n a] (soft scores), pretraining
        [b n] (1 match, 0 mismatch). Negative where there is no label.
      example_mask: True for real videos, False for the rows that fill the last batch.
      token_labels: in pretraining the id that each masked token had, -1 at all others; else None.
    """

    frames: UInt8[Array, "b k t h w 3"]
    text_ids: Int[Array, "b n l"]
    text_mask: Bool[Array, "b n l"]
    text_valid: Bool[Array, "b n"]
    labels: Shaped[Array, "b ..."]
    example_mask: Bool[Array, " b"]
    token_labels: Int[Array, "b n l"] | None = None

    @property
    def is_real_text(self) -> Bool[jax.Array, "b n"]:
        """True where there is a text of a real video."""
        return jnp.asarray(self.text_valid) & jnp.asarray(self.example_mask)[:, None]
