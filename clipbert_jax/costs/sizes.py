"""The shape of a batch, and the sizes that follow from it and the config."""

from __future__ import annotations

import dataclasses
import math

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.pixel_encoder import grid_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The shape of a batch, and what is done with it."""

    num_videos: int
    num_clips: int
    """Per video."""
    num_frames: int
    """Per clip."""
    height: int
    """Pixels."""
    width: int
    num_texts: int
    """Per video; each meets every clip."""
    text_length: int
    num_sampled_tokens: int = 0
    """Visual tokens of a clip that are kept, at most; 0 keeps all."""
    is_training: bool
    """Gradients and the update too, or scores alone."""
    encodes_video: bool = True
    """Start from frames; otherwise from visual tokens at hand, and what makes them is left out."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes that follow from the config and the batch."""

    config: ClipBertConfig
    shape: BatchShape

    @property
    def num_clips(self) -> int:
        return self.shape.num_videos * self.shape.num_clips

    @property
    def num_frames(self) -> int:
        return self.num_clips * self.shape.num_frames

    @property
    def num_texts(self) -> int:
        return self.shape.num_videos * self.shape.num_texts

    @property
    def num_pairs(self) -> int:
        """Of a clip and a text."""
        return self.num_clips * self.shape.num_texts

    @property
    def num_cells(self) -> int:
        """Of the grid of a frame."""
        return math.prod(grid_size(self.config.pixel_encoder, self.shape.height, self.shape.width))

    @property
    def num_visual_tokens(self) -> int:
        """Of a clip."""
        return min(self.num_cells, self.shape.num_sampled_tokens or self.num_cells)

    @property
    def sequence_length(self) -> int:
        return self.shape.text_length + self.num_visual_tokens
