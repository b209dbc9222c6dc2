"""KernelChoices: which of several equal ways to write the arithmetic a platform's compiler does best.

Nothing here changes a result by more than rounding, a parameter or a checkpoint, so it is no part of a
model's configuration: a model trained on a TPU is written differently when it is loaded on a GPU. What the
choices were measured by is in `docs/speed.md`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

_ALL_STAGES = ("res2", "res3", "res4", "res5")


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelChoices:
    """How the model is written for one platform."""

    pointwise_products: tuple[str, ...] = ()
    """Stages of the pixel encoder whose 1x1 convolutions are matrix products."""
    window_products: tuple[str, ...] = ()
    """Stages whose 3x3 convolutions are: each window's nine pixels are copied side by side first."""
    has_fused_attention: bool = False
    """Without dropout, attention that nobody asks to see is one kernel of cuDNN; bfloat16 only."""
    trims_last_layer: bool = True
    """The last fusion layer computes only the tokens that a head reads."""

    def product_sizes(self, stage: str) -> tuple[int, ...]:
        """Return the kernel sizes of a stage whose convolutions are matrix products."""
        return (1,) * (stage in self.pointwise_products) + (3,) * (stage in self.window_products)


_BY_PLATFORM = {
    "cpu": KernelChoices(pointwise_products=_ALL_STAGES, window_products=("res5", "grid_encoder")),
    "gpu": KernelChoices(pointwise_products=_ALL_STAGES, has_fused_attention=True),
    "tpu": KernelChoices(),
}


def default_kernel_choices(platform: str | None = None) -> KernelChoices:
    """Return the choice for `cpu`, `gpu` or `tpu`, by default for the devices that JAX uses."""
    if platform is not None:
        return _BY_PLATFORM[platform]
    kernels = _BY_PLATFORM.get(jax.default_backend(), KernelChoices())
    if kernels.has_fused_attention and not _has_cudnn_attention(jax.devices()[0]):
        return dataclasses.replace(kernels, has_fused_attention=False)
    return kernels


def _has_cudnn_attention(device: Any) -> bool:
    """Return whether this is an NVIDIA GPU from A100 to B200; later ones ask for a newer cuDNN."""
    try:
        return 8.0 <= float(getattr(device, "compute_capability", "")) <= 10.0
    except ValueError:  # of another maker
        return False
