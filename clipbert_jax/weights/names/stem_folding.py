"""Folds the scale and order of another model's pixels into the first convolution, for `source_names`.

The same picture then gives the same features, whatever mean and divisor the model's config has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from clipbert_jax.config import PixelEncoderConfig

_STEM = "cnn.feature.backbone.stem.conv1"
_KERNEL = f"{_STEM}.weight"
_NORM_MEAN = f"{_STEM}.norm.running_mean"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels:
    """Input of a stem's kernel: (pixel - mean) / std of pixels from 0 to 255."""

    mean: tuple[float, float, float]
    """Mean of R, G and B."""
    std: tuple[float, float, float]
    """Divisor of R, G and B."""
    is_rgb: bool
    """Whether the kernel takes RGB; otherwise BGR."""


CAFFE_PIXELS = Pixels(mean=(123.675, 116.28, 103.53), std=(1.0, 1.0, 1.0), is_rgb=False)
"""Pixels of MSRA's ImageNet weights, and of the detectors of detectron2 that start from them."""

TORCHVISION_PIXELS = Pixels(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), is_rgb=True)
"""The mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225) of pixels from 0 to 1, times 255."""


def stored_pixels(
    default: Pixels, mean: Shaped[np.ndarray, "*dims"] | None, std: Shaped[np.ndarray, "*dims"] | None
) -> Pixels:
    """Return the pixels of a detectron2 model; `mean` and `std` are the file's, in the kernel's order."""
    changes: dict[str, Any] = {}
    if (
        mean is not None
        and mean.size == 3
        and np.allclose(mean.reshape(-1), TORCHVISION_PIXELS.mean, atol=0.01)
    ):
        default = dataclasses.replace(default, is_rgb=True)  # trained with INPUT.FORMAT: RGB
    for name, array in (("mean", mean), ("std", std)):
        if array is not None and array.size == 3:
            values = [float(value) for value in array.reshape(-1)]
            changes[name] = tuple(values if default.is_rgb else reversed(values))
    return dataclasses.replace(default, **changes)


def fold_pixels(
    arrays: Mapping[str, np.ndarray], pixels: Pixels, config: PixelEncoderConfig
) -> tuple[dict[str, Shaped[np.ndarray, "*dims"]], str]:
    """Make a stem for the model's pixels from a stem for other pixels.

    Returns:
      The arrays that change, by the original's names, and a sentence about them; empty if the stem already
      fits or is missing.
    """
    kernel = arrays.get(_KERNEL)
    if kernel is None or kernel.ndim != 4 or kernel.shape[1] != 3:
        return {}, ""  # the check of all shapes reports it
    # The kernel's input is the model's pixels, times the scale and plus the offset of each channel.
    scale = _unless_close(np.divide(config.pixel_std, pixels.std), 1.0)
    offset = _unless_close(np.subtract(config.pixel_mean, pixels.mean), 0.0) / pixels.std
    if not pixels.is_rgb and (scale == 1).all() and not offset.any():
        return {}, ""
    rgb = kernel.astype(np.float64)[:, :: 1 if pixels.is_rgb else -1]
    folded = (rgb * scale[:, None, None])[:, ::-1]
    # Half precision would be too coarse after the division by 58.
    result = {_KERNEL: folded.astype(np.promote_types(kernel.dtype, np.float32))}
    sentence = "the stem's kernel was made to take pixels as this model scales them"
    if pixels.is_rgb:
        sentence += ", in the order BGR"
    if offset.any():
        if (mean := arrays.get(_NORM_MEAN)) is not None and mean.shape == kernel.shape[:1]:
            shifted = mean - _response(rgb, offset)
            result[_NORM_MEAN] = shifted.astype(np.promote_types(mean.dtype, np.float32))
        sentence += (
            "; as its pixel_mean differs from the file's, the outermost three pixels, where the convolution "
            "pads, come out differently than in the model of the file"
        )
    return result, sentence


def _response(kernel: Float[np.ndarray, "o 3 kh kw"], colour: Float[np.ndarray, " 3"]) -> np.ndarray:
    """Return the output of a kernel for a plane of one colour."""
    return np.einsum("oihw,i->o", kernel, colour)


def _unless_close(values: np.ndarray, neutral: float) -> np.ndarray:
    """Return the values, or the neutral one if the difference is only rounding of float32."""
    return np.full_like(values, neutral) if np.allclose(values, neutral, rtol=0, atol=1e-4) else values
