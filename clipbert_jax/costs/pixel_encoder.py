"""Layers of the pixel encoder: convolutions with their norms, pools.

Follows `models/pixel_encoder.py`. A layer is counted by `work.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from clipbert_jax.costs.sizes import Sizes
from clipbert_jax.costs.work import Counter, LayerCost, Product, Work

_PIXEL_BYTES = 1
"""Frames come as uint8."""


@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """Features of one frame."""

    height: int
    width: int
    features: int

    @property
    def num_places(self) -> int:
        return self.height * self.width

    @property
    def num_numbers(self) -> int:
        return self.num_places * self.features

    def halved(self, features: int) -> FeatureMap:
        """Return what a stride of two leaves."""
        return FeatureMap(-(-self.height // 2), -(-self.width // 2), features)


@dataclasses.dataclass(frozen=True)
class ResidualBlock:
    """A residual block: what comes in, what goes out."""

    stage: int
    """0 would be the stem, 1 is res2."""
    index: int
    """In its stage."""
    x: FeatureMap
    y: FeatureMap

    @property
    def name(self) -> str:
        """Such as `res3.0`."""
        return f"res{self.stage + 1}.{self.index}"

    @property
    def middle(self) -> FeatureMap:
        """What the 3x3 convolution reads and gives."""
        return dataclasses.replace(self.y, features=self.y.features // 4)

    @property
    def has_stride(self) -> bool:
        """Whether it halves the resolution."""
        return self.x.num_places != self.y.num_places


def stem_map(sizes: Sizes) -> FeatureMap:
    """Return what the first convolution gives; a pool halves it again."""
    pixels = FeatureMap(sizes.shape.height, sizes.shape.width, 3)
    return pixels.halved(sizes.config.pixel_encoder.stem_width)


def residual_blocks(sizes: Sizes) -> Iterator[ResidualBlock]:
    """Yield the blocks of all stages."""
    config = sizes.config.pixel_encoder
    x, out_features = stem_map(sizes).halved(config.stem_width), config.stage_width
    for stage, num_blocks in enumerate(config.stage_blocks, start=1):
        for index in range(num_blocks):
            is_halved = index == 0 and stage > 1
            y = x.halved(out_features) if is_halved else dataclasses.replace(x, features=out_features)
            yield ResidualBlock(stage, index, x, y)
            x = y
        out_features *= 2


def pixel_encoder_layers(counter: Counter, sizes: Sizes) -> Iterator[LayerCost]:
    """Yield every convolution and both pools."""
    yield from _stem(counter, sizes)
    blocks = list(residual_blocks(sizes))
    for block in blocks:
        for layer in _bottleneck(sizes, block):
            yield counter.product(layer)
    yield from _grid_encoder(counter, sizes, blocks[-1].y)


def _stem(counter: Counter, sizes: Sizes) -> Iterator[LayerCost]:
    pixels, y = FeatureMap(sizes.shape.height, sizes.shape.width, 3), stem_map(sizes)
    num_numbers = sizes.num_frames * pixels.num_places * pixels.features
    is_fused = counter.assumptions.fused_epilogues
    if not is_fused:
        work = Work(bytes=num_numbers * (_PIXEL_BYTES + counter.element_bytes))
        yield LayerCost(name="stem.normalise", stage="stem", forward=work)
    input_bytes = _PIXEL_BYTES if is_fused else None
    convolution = _convolution(sizes, "conv", 0, pixels, y, 7, has_input_gradient=False)
    yield counter.product(dataclasses.replace(convolution, input_bytes=input_bytes))
    is_trained = sizes.config.pixel_encoder.num_frozen_stages == 0
    num_outputs = sizes.num_frames * y.num_places * y.features
    num_pooled = sizes.num_frames * y.halved(0).num_places * y.features
    yield _max_pool(counter, "stem.max_pool", "stem", num_outputs, num_pooled, is_trained=is_trained)


def _bottleneck(sizes: Sizes, block: ResidualBlock) -> Iterator[Product]:
    stage, x, middle, y = block.stage, block.x, block.middle, block.y
    num_frozen, is_first = sizes.config.pixel_encoder.num_frozen_stages, block.index == 0
    # Of the first trained layer, nothing before wants the gradient.
    is_input_trained = stage > num_frozen or (stage == num_frozen and not is_first)

    def convolution(part: str, *arguments: Any, **options: Any) -> Product:
        return _convolution(sizes, f"{block.index}.{part}", stage, *arguments, **options)

    if is_first:
        options = {"has_epilogue": False, "has_input_gradient": is_input_trained}
        yield convolution("shortcut", x, y, 1, **options)
    # The gradient of the input is joined by that of the shortcut, and by the ReLU that the block before ends
    # in; the stem ends in a pool.
    num_gates = 1 if stage == 1 and is_first else 2
    yield convolution("conv1", x, middle, 1, num_gates=num_gates, has_input_gradient=is_input_trained)
    yield convolution("conv2", middle, middle, 3, num_gates=1)
    yield convolution("conv3", middle, y, 1, num_gates=1, num_residuals=1)


def _convolution(
    sizes: Sizes,
    name: str,
    stage: int,
    x: FeatureMap,
    y: FeatureMap,
    size: int,
    *,
    has_input_gradient: bool = True,
    **options: Any,
) -> Product:
    """Return a convolution with its norm; stage 0 is the stem, 1 is res2."""
    config = sizes.config.pixel_encoder
    stage_name = f"res{stage + 1}" if stage else "stem"
    is_trained = stage >= config.num_frozen_stages
    num_weights = size**2 * x.features * y.features
    num_of_norm = 2 * y.features if config.is_norm_trainable else 0
    return Product(
        name=f"{stage_name}.{name}",
        stage=stage_name,
        num_rows=sizes.num_frames * y.num_places,
        num_input_rows=sizes.num_frames * x.num_places,
        in_features=x.features,
        out_features=y.features,
        window=size**2,
        num_parameters=num_weights + 4 * y.features,
        num_trained=num_weights + num_of_norm if is_trained else 0,
        has_input_gradient=has_input_gradient and is_trained,
        **options,
    )


def _grid_encoder(counter: Counter, sizes: Sizes, x: FeatureMap) -> Iterator[LayerCost]:
    config, d = sizes.config.pixel_encoder, sizes.config.fusion.hidden_size
    num_rows = sizes.num_frames * x.num_places
    yield counter.product(
        Product(
            name="grid_encoder.conv",
            stage="grid_encoder",
            num_rows=num_rows,
            in_features=x.features,
            out_features=d,
            window=9,
            num_parameters=9 * x.features * d,
            has_input_gradient=config.num_frozen_stages <= len(config.stage_blocks),
            has_epilogue=False,
            num_gates=1,
        )
    )
    num_pooled = sizes.num_frames * sizes.num_cells * d
    yield _max_pool(counter, "grid_encoder.max_pool", "grid_encoder", num_rows * d, num_pooled)


def _max_pool(
    counter: Counter, name: str, stage: str, num_inputs: int, num_outputs: int, *, is_trained: bool = True
) -> LayerCost:
    """Return a pool; the derivative asks its input again where the maximum was."""
    backward = 2 * num_inputs + num_outputs if is_trained else 0
    return counter.elementwise(name, stage, forward=num_inputs + num_outputs, backward=backward)
