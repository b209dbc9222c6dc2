"""The pixel encoder of the PyTorch peer: ResNet grid features, its frozen norms folded.

Axis letters are those of `clipbert_jax/batch.py`.
"""

from __future__ import annotations

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from clipbert_jax.config import PixelEncoderConfig

_NORM_EPS = 1e-5


class FrozenBatchNorm(nn.Module):
    """Statistics that never change, with a scale and a bias that may be trained."""

    def __init__(self, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def multiplier_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the affine map that the norm is."""
        multiplier = self.weight * torch.rsqrt(self.running_var + _NORM_EPS)
        return multiplier, self.bias - self.running_mean * multiplier


class NormedConv(nn.Module):
    """Convolution whose batch norm is folded into the weights: once if they are fixed, else as it is applied.

    Folding costs a pass over weights, which the cast to bfloat16 reads and writes anyway and Inductor fuses
    with it, and leaves one pointwise kernel of bias and ReLU. The affine map after the convolution has that
    kernel too, and if the scale is trained it also keeps the convolution's output for a sum in the backward
    pass. The gradients are the same.
    """

    def __init__(self, in_features: int, out_features: int, size: int, stride: int = 1):
        super().__init__()
        self.stride, self.padding = stride, size // 2
        self.weight = nn.Parameter(torch.empty(out_features, in_features, size, size))
        self.norm = FrozenBatchNorm(out_features)
        self.multiplier: Tensor | None = None
        self.shift: Tensor | None = None

    @torch.no_grad()
    def prepare(self, dtype: Any, *, is_trained: bool) -> None:
        """Compute once what no update will change, after the weights are loaded."""
        multiplier, shift = self.norm.multiplier_and_shift()
        if not is_trained or not self.weight.requires_grad:
            self.weight.requires_grad_(False)
            self.weight.data = (self.weight * multiplier[:, None, None, None]).to(dtype)
            self.shift = shift.to(dtype)
        elif not self.norm.weight.requires_grad:
            self.multiplier, self.shift = multiplier[:, None, None, None], shift.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        weight, shift = self.weight, self.shift
        if shift is None:
            multiplier, shift = self.norm.multiplier_and_shift()
            weight = weight * multiplier[:, None, None, None]
        elif self.multiplier is not None:
            weight = weight * self.multiplier
        return F.conv2d(x, weight, shift, self.stride, self.padding)


class Stem(nn.Module):
    """7x7 convolution and max pool."""

    def __init__(self, features: int):
        super().__init__()
        self.conv1 = NormedConv(3, features, 7, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Take the resolution to a quarter."""
        return F.max_pool2d(F.relu(self.conv1(x)), 3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """1x1 (with the stride), 3x3, 1x1, added to the shortcut."""

    def __init__(self, in_features: int, out_features: int, *, stride: int, is_first: bool):
        super().__init__()
        width = out_features // 4
        self.conv1 = NormedConv(in_features, width, 1, stride)
        self.conv2 = NormedConv(width, width, 3)
        self.conv3 = NormedConv(width, out_features, 1)
        self.shortcut = NormedConv(in_features, out_features, 1, stride) if is_first else None

    def forward(self, x: Tensor) -> Tensor:
        """Refine the features."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.relu(self.conv3(x) + shortcut)


class PixelEncoder(nn.Module):
    """Frames [m h w 3] to grids [m d gh gw], channels last in memory from the pixels on."""

    def __init__(self, config: PixelEncoderConfig, width: int, dtype: Any):
        super().__init__()
        self.dtype = dtype
        self.num_frozen_stages = config.num_frozen_stages
        stages: dict[str, nn.Module] = {"stem": Stem(config.stem_width)}
        in_features, out_features = config.stem_width, config.stage_width
        for stage, num_blocks in enumerate(config.stage_blocks):
            stages[f"res{stage + 2}"] = nn.Sequential(
                *(
                    Bottleneck(
                        in_features if block == 0 else out_features,
                        out_features,
                        stride=2 if block == 0 and stage > 0 else 1,
                        is_first=block == 0,
                    )
                    for block in range(num_blocks)
                )
            )
            in_features, out_features = out_features, 2 * out_features
        self.feature = nn.ModuleDict({"backbone": nn.ModuleDict(stages)})
        conv = nn.Conv2d(in_features, width, 3, padding=1, bias=False)
        self.grid_encoder = nn.Sequential(conv, nn.MaxPool2d(2), nn.ReLU())
        exact = torch.promote_types(dtype, torch.float32)
        self.register_buffer("pixel_mean", torch.tensor(config.pixel_mean, dtype=exact), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.pixel_std, dtype=exact), persistent=False)
        if not config.is_norm_trainable:
            for module in self.modules():
                if isinstance(module, FrozenBatchNorm):
                    module.requires_grad_(False)
        for stage in list(stages.values())[: config.num_frozen_stages]:
            stage.requires_grad_(False)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode frames: RGB, 0-255, uint8."""
        x = ((frames.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std).flip(-1)
        x = x.to(self.dtype).permute(0, 3, 1, 2)
        stages = list(self.feature["backbone"].values())
        with torch.no_grad():
            for stage in stages[: self.num_frozen_stages]:
                x = stage(x)
        for stage in stages[self.num_frozen_stages :]:
            x = stage(x)
        return self.grid_encoder(x)
