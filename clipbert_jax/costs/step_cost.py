"""Costs of a program from its kernels: operations, bytes moved, the shortest possible time, memory.

`clipbert estimate`, the benchmarks and the trainer's utilization take these.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from clipbert_jax.costs.devices import Device, Platform
from clipbert_jax.costs.kernels import OpCost
from clipbert_jax.costs.program import Purpose, TracedProgram, Value, count_flops

_NUM_AT_ONCE: dict[Platform, int] = {"cpu": 9}
"""Kernels that run at the same time; by the memory of compiled programs, small ones above all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCost:
    """Operations, or seconds, of a program by purpose."""

    forward: int | float = 0
    backward: int | float = 0
    recomputed: int | float = 0
    """The forward pass again, for rematerialisation and passes over clips."""
    update: int | float = 0

    @property
    def total(self) -> int | float:
        """Sum of all purposes."""
        return self.forward + self.backward + self.recomputed + self.update


def step_flops(program: TracedProgram) -> StepCost:
    """Return the operations of the products."""
    return _by_purpose(lambda purpose: count_flops(program, purpose))


def step_bytes(kernels: Iterable[OpCost]) -> int:
    """Return the bytes that the kernels read and write."""
    return sum(kernel.num_bytes for kernel in kernels)


def step_floor(kernels: Sequence[OpCost], device: Device) -> StepCost:
    """Return the shortest possible time in seconds: the roofline.

    A kernel takes as long as its operations at the device's peak or its bytes at the memory's bandwidth,
    whichever is longer, and kernels follow one another (Williams et al., "Roofline", CACM 2009).

    Raises:
      ValueError: the device has no figures for the program's arithmetic.
    """
    return _by_purpose(lambda purpose: sum(_seconds(kernel, device, purpose) for kernel in kernels))


def _by_purpose(amount: Callable[[Purpose], int | float]) -> StepCost:
    return StepCost(**{purpose: amount(purpose) for purpose in get_args(Purpose)})


def _seconds(kernel: OpCost, device: Device, purpose: Purpose) -> float:
    if kernel.body:
        return kernel.num_turns * sum(_seconds(inner, device, purpose) for inner in kernel.body)
    if kernel.purpose != purpose:
        return 0.0
    if device.bandwidth is None:
        raise ValueError("This device has no figures: measure_device() finds them.")
    compute = kernel.flops / device.peak_flops(kernel.operand_bytes) if kernel.flops else 0.0
    return max(compute, kernel.num_bytes / device.bandwidth)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peak:
    """Fullest moment of a program, its arguments and what takes their place not counted."""

    num_bytes: int
    purpose: Purpose
    """Purpose of the kernel that runs then."""
    before_backward: int
    """Bytes that are alive when the backward pass begins."""


def peak_memory(kernels: Sequence[OpCost], platform: Platform = "gpu") -> Peak:
    """Return the most memory that is alive at once, if kernels run in the order of the program.

    A pass may write over an array that only it still reads; a product may not. Outputs take the place of
    donated arguments. Inside of a loop its own arrays come on top of those around it. A CPU runs some kernels
    at the same time, so that arrays live longer there: those of the update to its end.
    """
    made = {value for kernel in kernels for value in kernel.writes if not value.is_output}
    freed = _freed_bytes(
        kernels, made, _NUM_AT_ONCE.get(platform, 1) - 1, is_update_at_once=platform == "cpu"
    )
    live, peak = 0, Peak(num_bytes=0, purpose="forward", before_backward=0)
    for index, kernel in enumerate(kernels):
        if kernel.purpose == "backward" and not peak.before_backward:
            peak = dataclasses.replace(peak, before_backward=live)
        written = _num_bytes(value for value in kernel.writes if value in made)
        needed = max(written - freed[index], 0) if kernel.is_pass else written
        if kernel.body:
            needed += peak_memory(kernel.body, platform).num_bytes - freed[index]
        if live + needed > peak.num_bytes:
            peak = dataclasses.replace(peak, num_bytes=live + needed, purpose=kernel.purpose)
        live += written - freed[index]
    return peak


def _freed_bytes(
    kernels: Sequence[OpCost], made: set[Value], delay: int, *, is_update_at_once: bool
) -> dict[int, int]:
    """Return the bytes that are freed after each kernel: those of arrays whose last reader has run."""
    last_read = {
        value: len(kernels) if is_update_at_once and kernel.purpose == "update" else index
        for index, kernel in enumerate(kernels)
        for value in kernel.reads
    }
    freed: dict[int, int] = collections.Counter()
    for index, kernel in enumerate(kernels):
        for value in made.intersection(kernel.writes):
            freed[last_read.get(value, index) + delay] += value.num_bytes
    return freed


def _num_bytes(values: Iterable[Value]) -> int:
    return sum(value.num_bytes for value in values)
