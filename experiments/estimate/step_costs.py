"""Costs of a train step on one of many devices, and the batches that fit. `estimate.py` calls this.

The step is traced once, with primes in the place of the numbers of videos and of parts, so that one trace
gives the costs of every batch. Nothing is computed, and no array is made.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh

from clipbert_jax.costs.devices import Device, Platform
from clipbert_jax.costs.kernels import OpCost, make_kernels
from clipbert_jax.costs.program import Purpose, TracedProgram, read_program
from clipbert_jax.costs.step_cost import Peak, StepCost, peak_memory, step_floor
from clipbert_jax.models.kernel_choices import default_kernel_choices
from clipbert_jax.training.sharding import AXES, MeshConfig, make_mesh, state_shardings
from clipbert_jax.training.step import TrainState
from clipbert_jax.training.train_program import TrainSetting, batch_arrays, state_shapes, trace_train_step

USABLE_SHARE: dict[Platform, float] = {"gpu": 0.75, "tpu": 0.95, "cpu": 0.75}
"""Share of a device's memory that training may take. On GPUs JAX takes it unless
XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""
NUM_BATCHES_AHEAD = 3
"""Batches that training puts onto the devices early: two wait, a third waits to join them."""

_VIDEOS, _PARTS = 1009, 1013
"""Primes that stand for the videos of a part and for the number of parts."""
_MAX_VIDEOS = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Memory of training on one device, in bytes."""

    parameters: int
    """All parameters, with frozen ones, and with averages if there are any."""
    optimizer: int
    batch: int
    batches_ahead: int
    """The next batches, which are not part of the program of the step."""
    gradients: int
    """Gradients of all trained parameters."""
    activations: int
    """Arrays that are alive when the backward pass begins."""
    temporary: int
    """Arrays besides the arguments at the fullest moment."""
    fullest: Purpose
    """Part of the step that runs at that moment."""

    @property
    def arguments(self) -> int:
        """Arguments of the step."""
        return self.parameters + self.optimizer + self.batch

    @property
    def program(self) -> int:
        """Memory of the step, as compilers count it: arguments and temporary arrays."""
        return self.arguments + self.temporary

    @property
    def peak(self) -> int:
        """Memory of training: the step and the next batches."""
        return self.program + self.batches_ahead


class DeviceStep:
    """The train step of one device, with its share of the videos.

    What the devices exchange is left out. The tensor axis divides the state. Its effect on activations is
    left out: compilers are seen to need about as much memory with it as without.
    """

    def __init__(self, setting: TrainSetting, platform: Platform, num_devices: int = 1):
        """Read the step.

        Args:
          setting: of all devices together.
          platform: decides how the model is written and what its compiler keeps. On a CPU XLA unrolls loops
            over parts and clips, and computes at once what was to be computed again: nothing of this saves
            memory there.
          num_devices: devices that share the videos equally.
        """
        self.setting, self.num_devices = setting, num_devices
        self.platform: Platform = platform

    @property
    def num_parts(self) -> int:
        """Parts that the batch is gone through in, one after the other."""
        return 1 if self.platform == "cpu" else self.setting.train.num_accumulation_steps

    @functools.cached_property
    def program(self) -> TracedProgram:
        """Operations of one update on this device."""
        return _program(*self._program_key)

    @property
    def _program_key(self) -> tuple[TrainSetting, Platform, int, int]:
        """What decides the program: all devices with as many videos have the same."""
        setting = _to_trace(self.setting, self.platform, self.num_parts > 1)
        num_videos = -(-self.setting.shape.num_videos // (self.num_devices * self.num_parts))
        return setting, self.platform, num_videos, self.num_parts

    @functools.cached_property
    def kernels(self) -> list[OpCost]:
        """Kernels of one update on this device."""
        return make_kernels(self.program, self.platform)

    def floor(self, device: Device) -> StepCost:
        """Return the shortest possible seconds of an update."""
        floor, mesh = step_floor(self.kernels, device), self.setting.mesh
        return dataclasses.replace(floor, update=floor.update / (mesh.fsdp * mesh.tensor))

    def memory(self) -> StepMemory:
        """Return what training takes."""
        state = _state(_to_trace(self.setting, self.platform, has_parts=False), self.platform)
        mesh = _mesh(self.num_devices, self.setting.mesh)
        batch = sum(_num_bytes(x) for x in batch_arrays(self.setting).values()) // self.num_devices
        peak = _peak(*self._program_key)
        return StepMemory(
            parameters=sum(_bytes_on_device(part, mesh) for part in (state.params, state.frozen, state.ema)),
            optimizer=_bytes_on_device(state.opt_state, mesh),
            batch=batch,
            batches_ahead=NUM_BATCHES_AHEAD * batch,
            gradients=_bytes_on_device(state.params, mesh),
            activations=peak.before_backward,
            temporary=peak.num_bytes,
            fullest=peak.purpose,
        )


def count_parameters(setting: TrainSetting, platform: Platform) -> tuple[int, int]:
    """Return the number of elements of all parameters and of the trained ones."""
    state = _state(_to_trace(setting, platform, has_parts=False), platform)
    num_trained = sum(x.size for x in state.params.values())
    return num_trained + sum(x.size for x in state.frozen.values()), num_trained


def fits(setting: TrainSetting, device: Device, platform: Platform, num_devices: int = 1) -> bool:
    """Return whether training fits the usable memory of each device."""
    assert device.memory_bytes is not None
    usable = USABLE_SHARE[platform] * device.memory_bytes
    return DeviceStep(setting, platform, num_devices).memory().peak <= usable


def largest_part(setting: TrainSetting, device: Device, platform: Platform, num_devices: int = 1) -> int:
    """Return how many videos at once a device can take at most, as a power of two; 0 if it takes none."""
    num_parts = setting.train.num_accumulation_steps * num_devices

    def fits_with(num_videos: int) -> bool:
        return fits(setting.with_batch_size(num_videos * num_parts), device, platform, num_devices)

    num_videos = 1
    while num_videos <= _MAX_VIDEOS and fits_with(num_videos):
        num_videos *= 2
    return num_videos // 2


def accumulation_that_fits(
    setting: TrainSetting, device: Device, platform: Platform, num_devices: int = 1
) -> int | None:
    """Return the fewest parts in which the batch fits the devices; None if not even single videos do."""
    videos_of_device = setting.shape.num_videos // num_devices
    for num_parts in range(1, videos_of_device + 1):
        if videos_of_device % num_parts:
            continue
        train = dataclasses.replace(setting.train, num_accumulation_steps=num_parts)
        if fits(dataclasses.replace(setting, train=train), device, platform, num_devices):
            return num_parts
    return None


def _to_trace(setting: TrainSetting, platform: Platform, has_parts: bool) -> TrainSetting:
    """Return the setting that all batches of one kind share."""
    num_parts = _PARTS if has_parts else 1
    train = dataclasses.replace(setting.train, num_accumulation_steps=num_parts)
    if platform == "cpu":
        train = dataclasses.replace(train, remat="none", clips_per_pass=0)
    setting = dataclasses.replace(setting, train=train, mesh=MeshConfig())
    return setting.with_batch_size(_VIDEOS * num_parts)


@functools.lru_cache(maxsize=256)
def _peak(setting: TrainSetting, platform: Platform, num_videos: int, num_parts: int) -> Peak:
    """Return the fullest moment; the search for batches that fit asks for the same ones again."""
    kernels = make_kernels(_program(setting, platform, num_videos, num_parts), platform)
    return peak_memory(kernels, platform)


def _program(setting: TrainSetting, platform: Platform, num_videos: int, num_parts: int) -> TracedProgram:
    sizes = {_VIDEOS: num_videos, _PARTS: num_parts}
    return read_program(_traced(setting, platform), platform=platform, sizes=sizes)


@functools.lru_cache(maxsize=4)
def _traced(setting: TrainSetting, platform: Platform) -> ClosedJaxpr:
    return trace_train_step(setting, default_kernel_choices(platform))


@functools.lru_cache(maxsize=4)
def _state(setting: TrainSetting, platform: Platform) -> TrainState:
    return state_shapes(setting, make_mesh(jax.devices()[:1]), default_kernel_choices(platform))


def _mesh(num_devices: int, config: MeshConfig) -> Mesh:
    """Return a mesh that is asked for nothing but its shape, so that one device may stand for all."""
    grid = (num_devices // (config.fsdp * config.tensor), config.fsdp, config.tensor)
    return Mesh(np.full(grid, jax.devices()[0]), AXES)


def _bytes_on_device(tree: Any, mesh: Mesh) -> int:
    shardings = jax.tree.leaves(state_shardings(tree, mesh))
    return sum(
        math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x, sharding in zip(jax.tree.leaves(tree), shardings, strict=True)
    )


def _num_bytes(x: jax.ShapeDtypeStruct) -> int:
    return math.prod(x.shape) * x.dtype.itemsize
