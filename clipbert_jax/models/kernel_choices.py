"""Kernel choices: the way of writing the arithmetic that suits each platform's compiler best.

They change results by rounding only, and no parameter or checkpoint. So they do not belong to the model's
configuration: a model trained on a TPU gets other kernels on a GPU. `docs/speed.md` has the measurements.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

_ALL_STAGES = ("res2", "res3", "res4", "res5")


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelChoices:
    """Ways of writing the model for one platform."""

    pointwise_products: tuple[str, ...] = ()
    """Stages of the pixel encoder whose 1x1 convolutions are matrix products."""
    window_products: tuple[str, ...] = ()
    """Stages whose 3x3 convolutions are matrix products: the nine pixels of each window are copied first."""
    has_fused_attention: bool = False
    """Whether attention that is not returned is one cuDNN kernel; only without dropout and in bfloat16."""
    trims_last_layer: bool = True
    """Whether the last fusion layer computes only the tokens that the head reads."""

    def product_sizes(self, stage: str) -> tuple[int, ...]:
        """Return the kernel sizes of a stage whose convolutions are matrix products."""
        return (1,) * (stage in self.pointwise_products) + (3,) * (stage in self.window_products)


_BY_PLATFORM = {
    "cpu": KernelChoices(pointwise_products=_ALL_STAGES, window_products=("res5", "grid_encoder")),
    "gpu": KernelChoices(pointwise_products=_ALL_STAGES, has_fused_attention=True),
    "tpu": KernelChoices(),
}


def default_kernel_choices(platform: str | None = None) -> KernelChoices:
    """Return the choices for `cpu`, `gpu` or `tpu`; default: the devices that JAX uses."""
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
