"""Rates and memory of devices: a table of known ones, and a measurement of the device that is here.

`step_cost.py` turns operations and bytes into the shortest possible time at these rates.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

Platform = Literal["cpu", "gpu", "tpu"]
GPUS = ("h100", "h200", "a100")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """Rates of one device; None where they must be measured first (`measure_device`)."""

    bf16_flops: float | None = None
    """Operations a second of matrix products of bfloat16; a multiplication with its addition is 2."""
    fp32_flops: float | None = None
    """Operations a second of products of float32 arrays at JAX's default precision: TF32 on an NVIDIA GPU,
    bfloat16 on a TPU."""
    bandwidth: float | None = None
    """Bytes a second to and from the device's memory."""
    memory_bytes: int | None = None
    source: str
    """Source of the figures: measured, or the maker's datasheet."""

    def peak_flops(self, element_bytes: int) -> float:
        """Return the operations a second of products of bfloat16 (2 bytes) or float32 (4 bytes).

        Raises:
          ValueError: the peak is not known.
        """
        peak = {2: self.bf16_flops, 4: self.fp32_flops}.get(element_bytes)
        if peak is None:
            raise ValueError(
                f"This device has no figures for products of {element_bytes}-byte numbers: measure_device() "
                "finds those of bfloat16 and float32."
            )
        return peak


_GB = 10**9

DEVICES: dict[str, Device] = {
    "h100": Device(
        bf16_flops=798e12,
        fp32_flops=495e12,
        bandwidth=3.0e12,
        memory_bytes=80 * _GB,
        source="measured: bfloat16 products and copies; datasheet of the SXM form: float32 and memory",
    ),
    "h200": Device(
        bf16_flops=788e12,
        fp32_flops=495e12,
        bandwidth=4.3e12,
        memory_bytes=141 * _GB,
        source="measured: bfloat16 products and copies; datasheet of the SXM form: float32 and memory",
    ),
    "a100": Device(
        bf16_flops=312e12,
        fp32_flops=156e12,
        bandwidth=2.0e12,
        memory_bytes=80 * _GB,
        source="datasheet of the SXM form with 80 GB",
    ),
    "v5e": Device(
        bf16_flops=197e12,
        fp32_flops=197e12,
        bandwidth=819e9,
        memory_bytes=16 * _GB,
        source="datasheet of one chip",
    ),
    "v5p": Device(
        bf16_flops=459e12,
        fp32_flops=459e12,
        bandwidth=2765e9,
        memory_bytes=95 * _GB,
        source="datasheet of one chip",
    ),
    "v6e": Device(
        bf16_flops=918e12,
        fp32_flops=918e12,
        bandwidth=1640e9,
        memory_bytes=32 * _GB,
        source="datasheet of one chip",
    ),
    "cpu": Device(source="not known: CPUs differ too much"),
}
"""Datasheets promise more than products and copies reach: 989e12 and 3.35e12 for an H100."""


_KINDS = {
    r"\bH100\b": "h100",
    r"\bH200\b": "h200",
    r"\bA100\b": "a100",
    r"\bTPU v5 lite\b|\bTPU v5e\b": "v5e",
    r"\bTPU v5p?$": "v5p",
    r"\bTPU v6 lite\b|\bTPU v6e\b": "v6e",
}


def platform_of(target: str) -> Platform:
    """Return the platform of a target such as `v5e:16x16`, or of a kind of device."""
    kind = target.partition(":")[0]
    return "cpu" if kind == "cpu" else "gpu" if kind in GPUS else "tpu"


def known_device(kind: str) -> Device | None:
    """Return the entry for a JAX `device_kind`, such as `NVIDIA H100 80GB HBM3`; None if it is not known."""
    return next((DEVICES[name] for pattern, name in _KINDS.items() if re.search(pattern, kind)), None)


def measure_device(*, matrix_size: int | None = None, num_copied_bytes: int | None = None) -> Device:
    """Measure the first of JAX's devices, by products of square matrices and by copies, in a few seconds.

    Args:
      matrix_size: rows and columns; default: enough to keep the device busy.
      num_copied_bytes: bytes that are read, and as many that are written; far more than caches hold.
    """
    device = jax.devices()[0]
    is_cpu = device.platform == "cpu"
    size = matrix_size or (1024 if is_cpu else 8192)
    numbers = jnp.ones((num_copied_bytes or (1 << 28 if is_cpu else 1 << 30)) // 4, jnp.float32)

    # Into the memory of its argument: on a CPU fresh memory would cost more than the copy.
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)

    def copied() -> jax.Array:
        nonlocal numbers
        numbers = copy(numbers)
        return numbers

    def product_rate(dtype: jax.typing.DTypeLike) -> float:
        matrix, product = jnp.ones((size, size), dtype), jax.jit(jnp.matmul)
        return 2 * size**3 / _least_seconds(lambda: product(matrix, matrix))

    return Device(
        bf16_flops=product_rate(jnp.bfloat16),
        fp32_flops=product_rate(jnp.float32),
        bandwidth=2 * numbers.nbytes / _least_seconds(copied),
        memory_bytes=_memory_bytes(device),
        source=f"measured on {device.device_kind}",
    )


def _memory_bytes(device: jax.Device) -> int:
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _least_seconds(call: Callable[[], jax.Array], num_calls: int = 5) -> float:
    call().block_until_ready()  # compiles
    times = []
    for _ in range(num_calls):
        start = time.perf_counter()
        call().block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)
