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
class _Map:
    """Features of one frame."""

    height: int
    width: int
    features: int

    @property
    def num_places(self) -> int:
        return self.height * self.width

    def halved(self, features: int) -> _Map:
        """Return what a stride of two leaves."""
        return _Map(-(-self.height // 2), -(-self.width // 2), features)


def pixel_encoder_layers(counter: Counter, sizes: Sizes) -> Iterator[LayerCost]:
    """Yield every convolution and both pools."""
    config = sizes.config.pixel_encoder
    pixels = _Map(sizes.shape.height, sizes.shape.width, 3)
    stem = pixels.halved(config.stem_width)
    yield from _stem(counter, sizes, pixels, stem)
    x, out_features = stem.halved(config.stem_width), config.stage_width
    for stage, num_blocks in enumerate(config.stage_blocks, start=1):
        for block in range(num_blocks):
            is_halved = block == 0 and stage > 1
            y = x.halved(out_features) if is_halved else dataclasses.replace(x, features=out_features)
            for layer in _bottleneck(sizes, stage, block, x, y):
                yield counter.product(layer)
            x = y
        out_features *= 2
    yield from _grid_encoder(counter, sizes, x)


def _stem(counter: Counter, sizes: Sizes, pixels: _Map, y: _Map) -> Iterator[LayerCost]:
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


def _bottleneck(sizes: Sizes, stage: int, block: int, x: _Map, y: _Map) -> Iterator[Product]:
    num_frozen, is_first = sizes.config.pixel_encoder.num_frozen_stages, block == 0
    # Of the first trained layer, nothing before wants the gradient.
    is_input_trained = stage > num_frozen or (stage == num_frozen and not is_first)
    middle = dataclasses.replace(y, features=y.features // 4)

    def convolution(part: str, *arguments: Any, **options: Any) -> Product:
        return _convolution(sizes, f"{block}.{part}", stage, *arguments, **options)

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
    x: _Map,
    y: _Map,
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


def _grid_encoder(counter: Counter, sizes: Sizes, x: _Map) -> Iterator[LayerCost]:
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
