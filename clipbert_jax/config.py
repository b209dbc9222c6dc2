"""Configuration of the model: the sizes of its parts, with the original (`base`) and a laptop size (`tiny`).

Every field is an option of `clipbert train`. A width that several parts share is written once.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelEncoderConfig:
    """ResNet grid features (detectron2 R-50 of grid-feat-vqa), and their projection to the fusion width."""

    stem_width: int = 64
    """Number of channels after the 7x7 stem convolution."""
    stage_blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Number of bottleneck blocks in res2, res3, ...; each stage after res2 halves the resolution."""
    stage_width: int = 256
    """Number of output channels of res2, doubled by each stage; 3x3 convolutions have a quarter."""
    num_frozen_stages: int = 2
    """Number of first stages that are not trained; 2 freezes the stem and res2."""
    is_norm_trainable: bool = False
    """Train the scale and bias of the batch norms, whose statistics stay fixed."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB mean, subtracted from pixels of 0 to 255 and from padding."""
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """RGB divisor, applied after the mean."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """BERT: the embeddings of the text encoder and the layers of the cross-modal fusion."""

    hidden_size: int = 768
    """Width of tokens."""
    num_layers: int = 12
    """Number of layers."""
    num_heads: int = 12
    """Number of attention heads per layer; must divide the width."""
    intermediate_size: int = 3072
    """Width inside of the feed-forward part of a layer."""
    vocab_size: int = 30522
    """Number of word embeddings; 0 takes as many as the vocabulary of the data has tokens."""
    max_text_length: int = 512
    """Largest number of tokens per text."""
    max_grid_rows: int = 100
    """Largest height of the grid."""
    max_grid_columns: int = 100
    """Largest width of the grid."""
    num_token_types: int = 2
    """Number of token types of the text encoder."""
    dropout_rate: float = 0.1
    """Dropout rate of embeddings and layer outputs."""
    attention_dropout_rate: float = 0.1
    """Dropout rate of attention."""
    layer_norm_eps: float = 1e-12
    """Term added to the variance by layer norms."""
    initializer_range: float = 0.02
    """Standard deviation of random initial weights of dense layers and embeddings."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipBertConfig:
    """Sizes and arithmetic of the model."""

    pixel_encoder: PixelEncoderConfig = PixelEncoderConfig()
    fusion: FusionConfig = FusionConfig()
    compute_dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Data type of the computation; parameters and losses are float32, or float64 with float64."""

    @classmethod
    def base(cls) -> ClipBertConfig:
        """Return the original: ResNet-50 grid features and BERT-base, for 448 or 768 pixels."""
        return cls()

    @classmethod
    def tiny(cls, *, vocab_size: int = 256) -> ClipBertConfig:
        """Return a model of the same parts that trains from random weights on a laptop, at 48 pixels."""
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
