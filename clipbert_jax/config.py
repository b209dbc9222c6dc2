"""Model configuration: what a ClipBERT is made of, with the original (`base`) and a laptop size.

Frozen keyword-only dataclasses; every field can be set on the command line. Widths that must agree
are written once, here.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelEncoderConfig:
    """ResNet grid features (detectron2 R-50 of grid-feat-vqa) and the projection to the fusion width."""

    stem_width: int = 64
    """Channels after the 7x7 stem convolution."""
    stage_blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Bottleneck blocks in res2, res3, ...; every stage after res2 halves the resolution."""
    stage_width: int = 256
    """Output channels of res2; doubles with each stage. The 3x3 convolutions have a quarter of it."""
    num_frozen_stages: int = 2
    """How many of stem, res2, res3, ... receive no gradient; 2 is the stem and res2."""
    is_norm_trainable: bool = False
    """Train the scale and the bias of the frozen batch norms (their statistics stay fixed)."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB mean that is subtracted from 0-255 pixels, padding included."""
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """RGB divisor after the mean."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """BERT: embeddings of the text encoder and layers of the cross-modal fusion."""

    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    vocab_size: int = 30522
    """Rows of the word table; 0 takes the size of the data's vocabulary when training starts."""
    max_text_length: int = 512
    """Rows of the text position table."""
    max_grid_rows: int = 100
    """Rows of the visual row-position table; the grid may not be higher."""
    max_grid_columns: int = 100
    num_token_types: int = 2
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    """Standard deviation of new dense and embedding weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipBertConfig:
    """Everything that fixes the parameters and the arithmetic of a ClipBERT."""

    pixel_encoder: PixelEncoderConfig = PixelEncoderConfig()
    fusion: FusionConfig = FusionConfig()
    compute_dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Arithmetic of the network; parameters and losses stay float32 (float64 if this is)."""

    @classmethod
    def base(cls) -> ClipBertConfig:
        """Return the original: ResNet-50 grid features and BERT-base, for 448 or 768 pixels."""
        return cls()

    @classmethod
    def tiny(cls, *, vocab_size: int = 256) -> ClipBertConfig:
        """Return a model of the same parts that trains from nothing on a laptop at 48 pixels."""
        return cls(
            pixel_encoder=PixelEncoderConfig(
                stem_width=16,
                stage_blocks=(1, 1),
                stage_width=64,
                num_frozen_stages=0,
                is_norm_trainable=True,
                pixel_std=(58.395, 57.12, 57.375),
            ),
            fusion=FusionConfig(
                hidden_size=64,
                num_layers=2,
                num_heads=4,
                intermediate_size=256,
                vocab_size=vocab_size,
                max_text_length=64,
                max_grid_rows=24,
                max_grid_columns=24,
                dropout_rate=0.0,
                attention_dropout_rate=0.0,
                # Narrow layers need larger weights: with BERT's 0.02 the loss stays on its first plateau
                # for 1,000 steps and more, with 0.2 it leaves it after 100.
                initializer_range=0.2,
            ),
        )
