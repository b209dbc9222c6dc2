"""Pixel encoder: raw frames -> a grid of features in the fusion's width.

First stage of the model, trained end to end with the rest. A ResNet of the grid-features kind
(detectron2 R-50: stride in the 1x1 convolution, no dilation, frozen batch norms) and a projection.
Follows `src/modeling/grid_feat.py` and section 3 of the paper. What comes out goes to
`visual_embedding.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Real

from clipbert_jax.config import ClipBertConfig, PixelEncoderConfig
from clipbert_jax.models.kernel_choices import KernelChoices, default_kernel_choices
from clipbert_jax.models.layers import Frozen, LayerFactory
from clipbert_jax.models.remat import Remat

_NORM_EPS = 1e-5
# Blocks start close to their shortcut, so that a network of any depth trains from nothing.
_LAST_NORM_SCALE = 0.2


def grid_size(config: PixelEncoderConfig, height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of the grid that frames of this size give."""
    # The stem halves twice and every stage after res2 once, all rounding up; the last pool rounds down.
    total_stride = pixels_per_cell(config) // 2
    return -(-height // total_stride) // 2, -(-width // total_stride) // 2


def pixels_per_cell(config: PixelEncoderConfig) -> int:
    """Return the side of a grid cell in pixels."""
    return 2 ** (2 + len(config.stage_blocks))


def _convolve(
    x: Float[Array, "m h w i"], kernel: Float[Array, "kh kw i o"], stride: int = 1
) -> Float[Array, "m h2 w2 o"]:
    """Convolve with zero padding of half the kernel on each side, as PyTorch does (SAME differs)."""
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _multiply(
    x: Float[Array, "m h w i"], kernel: Float[Array, "kh kw i o"], stride: int = 1
) -> Float[Array, "m h2 w2 o"]:
    """Convolve with one matrix product: the pixels of each window are laid side by side."""
    height, width = kernel.shape[:2]
    padded = jnp.pad(x, ((0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0)))
    shifted = [
        padded[:, row : row + x.shape[1] : stride, column : column + x.shape[2] : stride]
        for row in range(height)
        for column in range(width)
    ]
    matrix = kernel.reshape(-1, kernel.shape[-1]).astype(x.dtype)
    return jnp.einsum("mhwi,io->mhwo", jnp.concatenate(shifted, axis=-1), matrix)


def _max_pool(x: Float[Array, "m h w c"], size: int, padding: int) -> Float[Array, "m h2 w2 c"]:
    """Take the maximum of size x size windows, two apart."""
    pads = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 2, 2, 1), pads)


@jax.custom_vjp
def _relu(x: Float[Array, "m h w c"]) -> Float[Array, "m h w c"]:
    """ReLU whose gradient asks only whether the output is 0.

    `jax.nn.relu` keeps its input for the gradient, so that a compiler has to write it to memory. Here nothing
    else asks for the input, and the ReLU becomes part of the convolution or product before it.
    """
    return jnp.maximum(x, 0)


def _relu_backward(output: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # `output > 0` would not do: XLA turns it into a comparison of the input again.
    return (jnp.where(output != 0, gradient, 0),)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    output = jnp.maximum(x, 0)
    return output, output


_relu.defvjp(_relu_forward, _relu_backward)


class FrozenBatchNorm(nnx.Module):
    """Batch norm with fixed statistics: one multiplier and one shift per channel."""

    def __init__(
        self, features: int, *, is_trainable: bool, initial_scale: float, param_dtype: jax.typing.DTypeLike
    ):
        variable = nnx.Param if is_trainable else Frozen
        self.scale = variable(jnp.full(features, initial_scale, param_dtype))
        self.bias = variable(jnp.zeros(features, param_dtype))
        self.mean = Frozen(jnp.zeros(features, param_dtype))
        self.variance = Frozen(jnp.ones(features, param_dtype))

    def multiplier_and_shift(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Return the affine map that the norm is."""
        multiplier = self.scale[...] * jax.lax.rsqrt(self.variance[...] + _NORM_EPS)
        return multiplier, self.bias[...] - self.mean[...] * multiplier


class NormedConv(nnx.Module):
    """Convolution without bias, with its frozen batch norm folded into the kernel as it is applied.

    Folding is exact, also for the gradient of the kernel, and leaves a convolution with a bias, which
    compilers fuse; a scale per channel after a convolution they do not.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        size: int,
        stride: int = 1,
        is_frozen: bool,
        is_norm_trainable: bool,
        norm_scale: float = 1.0,
        product_sizes: tuple[int, ...] = (),
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike,
    ):
        self.stride = stride
        self.is_matrix_product = size in product_sizes
        kernel = jax.nn.initializers.he_normal()(
            rngs.params(), (size, size, in_features, out_features), param_dtype
        )
        self.kernel = Frozen(kernel) if is_frozen else nnx.Param(kernel)
        self.norm = FrozenBatchNorm(
            out_features,
            is_trainable=is_norm_trainable and not is_frozen,
            initial_scale=norm_scale,
            param_dtype=param_dtype,
        )

    def __call__(self, x: Float[Array, "m h w i"]) -> Float[Array, "m h2 w2 o"]:
        """Convolve and normalise."""
        kernel, shift = self.folded()
        apply = _multiply if self.is_matrix_product else _convolve
        return apply(x, kernel, self.stride) + shift.astype(x.dtype)

    def folded(self) -> tuple[Float[Array, "kh kw i o"], Float[Array, " o"]]:
        """Return the kernel with the norm in it, and what is added to every pixel."""
        multiplier, shift = self.norm.multiplier_and_shift()
        return self.kernel[...] * multiplier, shift


class Bottleneck(nnx.Module):
    """1x1 (with the stride), 3x3, 1x1, added to the shortcut."""

    def __init__(self, in_features: int, out_features: int, *, stride: int, is_first: bool, **shared):
        width = out_features // 4
        self.conv1 = NormedConv(in_features, width, size=1, stride=stride, **shared)
        self.conv2 = NormedConv(width, width, size=3, **shared)
        self.conv3 = NormedConv(width, out_features, size=1, norm_scale=_LAST_NORM_SCALE, **shared)
        self.shortcut = (
            NormedConv(in_features, out_features, size=1, stride=stride, **shared) if is_first else None
        )

    def __call__(self, x: Float[Array, "m h w i"]) -> Float[Array, "m h2 w2 o"]:
        """Refine the features; a block with a stride also halves the resolution."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = _relu(self.conv1(x))
        x = _relu(self.conv2(x))
        return _relu(self.conv3(x) + shortcut)


class GridEncoder(nnx.Module):
    """3x3 convolution to the fusion's width, 2x2 max pool (dropping an odd last row or column), ReLU."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        is_matrix_product: bool,
        rngs: nnx.Rngs,
        param_dtype: jax.typing.DTypeLike,
    ):
        self.is_matrix_product = is_matrix_product
        kernel_init = jax.nn.initializers.he_normal()
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, in_features, out_features), param_dtype))

    def __call__(self, x: Float[Array, "m h w i"]) -> Float[Array, "m gh gw d"]:
        """Return the features of each grid cell, in the fusion's width."""
        apply = _multiply if self.is_matrix_product else _convolve
        return _relu(_max_pool(apply(x, self.kernel[...]), size=2, padding=0))


class PixelEncoder(nnx.Module):
    """ResNet stages and the grid encoder: frames [m h w 3] to grid [m gh gw d]."""

    def __init__(self, config: ClipBertConfig, *, rngs: nnx.Rngs, kernels: KernelChoices | None = None):
        kernels = kernels or default_kernel_choices()
        self.config = config.pixel_encoder
        self.compute_dtype = config.compute_dtype
        self.remat: Remat = "none"
        param_dtype = LayerFactory(config, rngs).param_dtype
        shared = {
            "is_norm_trainable": self.config.is_norm_trainable,
            "rngs": rngs,
            "param_dtype": param_dtype,
        }
        is_frozen = self.config.num_frozen_stages > 0
        self.stem = NormedConv(3, self.config.stem_width, size=7, stride=2, is_frozen=is_frozen, **shared)
        self.stages = nnx.Dict()
        in_features, out_features = self.config.stem_width, self.config.stage_width
        for stage, num_blocks in enumerate(self.config.stage_blocks):
            self.stages[f"res{stage + 2}"] = nnx.List(
                Bottleneck(
                    in_features if block == 0 else out_features,
                    out_features,
                    stride=2 if block == 0 and stage > 0 else 1,
                    is_first=block == 0,
                    is_frozen=self.config.num_frozen_stages > stage + 1,
                    product_sizes=kernels.product_sizes(f"res{stage + 2}"),
                    **shared,
                )
                for block in range(num_blocks)
            )
            in_features, out_features = out_features, 2 * out_features
        self.grid_encoder = GridEncoder(
            in_features,
            config.fusion.hidden_size,
            is_matrix_product=3 in kernels.product_sizes("grid_encoder"),
            rngs=rngs,
            param_dtype=param_dtype,
        )

    def __call__(self, frames: Real[Array, "*m h w 3"]) -> Float[Array, "*m gh gw d"]:
        """Encode frames: RGB, 0-255, normally uint8."""
        grid = self.features(frames.reshape(-1, *frames.shape[-3:]))["grid"]
        return grid.reshape(*frames.shape[:-3], *grid.shape[1:])

    def features(self, frames: Real[Array, "m h w 3"]) -> dict[str, Float[Array, "m _ _ _"]]:
        """Return the output of every stage: `stem`, `res2`, ..., and the `grid`."""
        if 0 in grid_size(self.config, *frames.shape[1:3]):
            smallest = 2 ** (1 + len(self.config.stage_blocks)) + 1
            raise ValueError(
                f"Frames of {frames.shape[1]}x{frames.shape[2]} pixels leave no grid cell: "
                f"give at least {smallest} pixels on each side."
            )
        x = self.run_stem(frames)
        outputs = {"stem": x}
        for name in self.stages:
            outputs[name] = x = self.run_stage(name, x)
        outputs["grid"] = self.grid_encoder(x)
        return outputs

    def run_stem(self, frames: Real[Array, "m h w 3"]) -> Float[Array, "m h2 w2 o"]:
        """Return the features after the first convolution and its max pool."""
        return _max_pool(_relu(self._apply_stem(self.normalise(frames))), size=3, padding=1)

    def run_stage(self, name: str, x: Float[Array, "m h w i"]) -> Float[Array, "m h2 w2 o"]:
        """Apply the stage `res2`, `res3`, ... to the output of the stage before."""
        for block in self.stages[name]:
            x = jax.checkpoint(block)(x) if self.remat == "full" else block(x)
        return x

    def _apply_stem(self, x: Float[Array, "m h w 3"]) -> Float[Array, "m h2 w2 o"]:
        """Convolve RGB with the kernel, which the released weights have for BGR."""
        kernel, shift = self.stem.folded()
        return _convolve(x, kernel[:, :, ::-1], self.stem.stride) + shift.astype(x.dtype)

    def normalise(self, frames: Real[Array, "m h w 3"]) -> Float[Array, "m h w 3"]:
        """Subtract the mean and divide."""
        dtype = jnp.promote_types(self.compute_dtype, jnp.float32)
        mean = jnp.asarray(self.config.pixel_mean, dtype)
        std = jnp.asarray(self.config.pixel_std, dtype)
        return ((frames.astype(dtype) - mean) / std).astype(self.compute_dtype)
