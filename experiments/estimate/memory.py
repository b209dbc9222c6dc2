"""The memory of a train step on one device: what is there all the time, and what comes and goes.

Beside `model.py`, which counts the operations of layers; here a model is a row of segments (`segments.py`).
Going back, the step holds what the segments before still keep, what the one at work needs, and the gradients
of those behind. Then it updates. The fullest of these moments decides.

    train_memory(setting, "gpu", num_devices=8).peak

docs/estimate.md says how close this comes to what compilers make of the step.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.costs.devices import Platform
from clipbert_jax.costs.segments import EMBEDDINGS, Segment, element_bytes, make_segments
from clipbert_jax.costs.sizes import Sizes
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import HeadConfig
from clipbert_jax.models.model_def import split_model
from clipbert_jax.training.sharding import AXES, MeshConfig, parameter_sharding
from clipbert_jax.training.train_program import TrainSetting, batch_arrays

NUM_BATCHES_AHEAD = 3
"""That training puts onto the devices before the step asks: two wait, a third waits to join them."""

_FLOAT32 = 4
_NUM_MOMENTS = 2  # of Adam


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """What is there at one moment of the step besides its arguments, in bytes."""

    name: str
    """The segment at work, or `update`."""
    activations: int = 0
    """Kept from the forward pass, weights in the compute dtype among them."""
    working: int = 0
    gradients: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.activations + self.working + self.gradients


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device."""

    parameters: int
    """Frozen ones, and averages if there are any, too."""
    optimizer: int
    batch: int
    batches_ahead: int
    """The next ones, of which the step knows nothing."""
    gradients: int
    """All of them, in float32."""
    activations: int
    """All that the backward pass needs, at the end of the forward pass."""
    fullest: Moment

    @property
    def arguments(self) -> int:
        """What the step is given."""
        return self.parameters + self.optimizer + self.batch

    @property
    def program(self) -> int:
        """What the step takes, as compilers count it: arguments and temporary arrays."""
        return self.arguments + self.fullest.total

    @property
    def peak(self) -> int:
        """What training takes: the step and the next batches."""
        return self.program + self.batches_ahead


def train_memory(setting: TrainSetting, platform: Platform, num_devices: int = 1) -> Memory:
    """Return what training takes on each of so many devices, which have equally many videos.

    Parts that `train.frozen_parts` freezes keep as much as if they were trained.
    """
    step = _Step(setting, platform, num_devices)
    return Memory(
        parameters=step.frozen_bytes + step.trained_bytes * (2 if setting.train.ema_decay else 1),
        optimizer=_NUM_MOMENTS * step.trained_bytes,
        batch=step.batch_bytes,
        batches_ahead=NUM_BATCHES_AHEAD * step.batch_bytes,
        gradients=step.trained_bytes,
        activations=step.activations,
        fullest=max(step.moments(), key=lambda moment: moment.total),
    )


def count_parameters(setting: TrainSetting) -> tuple[int, int]:
    """Return how many numbers the parameters are, and how many of them are trained."""
    whole = dataclasses.replace(setting, mesh=MeshConfig())
    arrays = _arrays_on_device(whole, num_devices=1)
    return (
        sum(array.num_numbers for array in arrays),
        sum(array.num_numbers for array in arrays if array.is_trained),
    )


@dataclasses.dataclass(frozen=True)
class _Array:
    """A parameter on one device."""

    name: str
    num_numbers: int
    """That the device keeps."""
    num_used: int
    """That its products read: what the fsdp axis divides is brought together for them."""
    is_trained: bool

    @property
    def segment(self) -> str:
        """The segment that it belongs to."""
        match self.name.split("/"):
            case ["pixel_encoder", "stages", stage, index, *_]:
                return f"{stage}.{index}"
            case ["pixel_encoder", part, *_]:
                return part
            case ["fusion", "layers", index, *_]:
                return f"fusion.{index}"
            case ["fusion" | "head", *_]:
                return "head"
        return EMBEDDINGS

    @property
    def is_kernel(self) -> bool:
        """Whether it is an operand of products."""
        return self.name.endswith("/kernel")


class _Step:
    """The train step on one of the devices."""

    def __init__(self, setting: TrainSetting, platform: Platform, num_devices: int):
        self.setting, self.num_devices = setting, num_devices
        self.platform: Platform = platform
        self.arrays = _arrays_on_device(setting, num_devices)
        self.segments = self._make_segments()
        self.converted = {segment.name: self._converted(segment.name) for segment in self.segments}

    @property
    def has_loops(self) -> bool:
        """Whether parts of a batch are gone through one after the other, and things are computed again late.

        On a CPU XLA goes forward through all parts before it goes back, and computes at once what was to be
        computed again: nothing of this saves memory there.
        """
        return self.platform != "cpu"

    @property
    def trained_bytes(self) -> int:
        return _FLOAT32 * sum(array.num_numbers for array in self.arrays if array.is_trained)

    @property
    def frozen_bytes(self) -> int:
        return _FLOAT32 * sum(array.num_numbers for array in self.arrays if not array.is_trained)

    @property
    def batch_bytes(self) -> int:
        arrays = batch_arrays(self.setting).values()
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays) // self.num_devices

    @property
    def activations(self) -> int:
        """What the backward pass needs when it begins."""
        return sum(segment.kept + self.converted[segment.name] for segment in self.segments)

    def moments(self) -> Iterator[Moment]:
        """Yield the moments of the forward pass, of the backward pass and of the update."""
        in_loop = (self.trained_bytes, self.batch_bytes) if self.num_turns > 1 else (0, 0)
        added_up, batch_again = in_loop  # gradients so far, and the batch in the order of its parts
        activations = 0
        for segment in self.segments:
            working = segment.forward + batch_again
            yield Moment(name=segment.name, activations=activations, working=working, gradients=added_up)
            activations += segment.kept + self.converted[segment.name]
        # Words are scattered into zeros that are there from the beginning.
        gradients = self._gradients(EMBEDDINGS)
        for segment in reversed(self.segments):
            gradients += self._gradients(segment.name) if segment.name != EMBEDDINGS else 0
            yield Moment(
                name=segment.name,
                activations=activations,
                working=segment.working + batch_again,
                gradients=gradients + added_up,
            )
            activations -= segment.kept + self.converted[segment.name]
        # Clipped gradients are arrays of their own on a CPU; elsewhere they are part of the update.
        yield Moment(name="update", gradients=gradients * (2 if self.platform == "cpu" else 1))

    @property
    def num_turns(self) -> int:
        """How often the loops over parts of the batch and over clips turn."""
        train, num_clips = self.setting.train, self.setting.shape.num_clips
        if not self.has_loops:
            return 1
        return train.num_accumulation_steps * (num_clips // (train.clips_per_pass or num_clips))

    def _make_segments(self) -> tuple[Segment, ...]:
        train, shape = self.setting.train, self.setting.shape
        num_parts = self.num_devices * (train.num_accumulation_steps if self.has_loops else 1)
        num_clips = train.clips_per_pass if self.has_loops and train.clips_per_pass else shape.num_clips
        shape = dataclasses.replace(shape, num_videos=-(-shape.num_videos // num_parts), num_clips=num_clips)
        return make_segments(
            Sizes(self.setting.model, shape),
            self.setting.task.head,
            self.platform,
            remat=train.remat if self.has_loops else "none",
            num_tensor=self.setting.mesh.tensor,
        )

    def _gradients(self, segment: str) -> int:
        """Return the bytes of the gradients of a segment's parameters.

        Products give those of kernels in the compute dtype; loops add them up in float32.
        """
        of_kernels = _FLOAT32 if self.platform == "cpu" or self.num_turns > 1 else self._element_bytes
        return sum(
            array.num_numbers * (of_kernels if array.is_kernel else _FLOAT32)
            for array in self.arrays
            if array.segment == segment and array.is_trained
        )

    def _converted(self, segment: str) -> int:
        """Return the bytes of kernels as products read them: in another dtype, or with a norm folded in."""
        is_folded = segment.startswith("res")
        if self._element_bytes == _FLOAT32 and not is_folded:
            return 0
        operand_bytes = _FLOAT32 if self.platform == "cpu" else self._element_bytes
        arrays = [array for array in self.arrays if array.segment == segment and array.is_trained]
        return operand_bytes * sum(array.num_used for array in arrays if array.is_kernel)

    @property
    def _element_bytes(self) -> int:
        return element_bytes(self.setting.model)


def _arrays_on_device(setting: TrainSetting, num_devices: int) -> list[_Array]:
    trained, frozen = _shapes(setting.model, setting.task.head)
    num_fsdp, num_tensor = setting.mesh.fsdp, setting.mesh.tensor
    kept = _mesh(num_devices, num_fsdp, num_tensor)
    used = _mesh(num_devices, 1, num_tensor)
    frozen_parts = tuple(setting.train.frozen_parts)
    return [
        _Array(
            name=name,
            num_numbers=_num_numbers(name, shape, kept),
            num_used=_num_numbers(name, shape, used),
            is_trained=name in trained and not name.startswith(frozen_parts),
        )
        for name, shape in {**trained, **frozen}.items()
    ]


def _num_numbers(name: str, shape: tuple[int, ...], mesh: Mesh) -> int:
    """Return how many numbers of a parameter a device of the mesh has."""
    return math.prod(parameter_sharding(name, shape, mesh).shard_shape(shape))


def _mesh(num_devices: int, num_fsdp: int, num_tensor: int) -> Mesh:
    """Return a mesh that is asked for nothing but its shape, so that one device may stand for all."""
    grid = (num_devices // (num_fsdp * num_tensor), num_fsdp, num_tensor)
    return Mesh(np.full(grid, jax.devices()[0]), AXES)


@functools.cache
def _shapes(
    config: ClipBertConfig, head: HeadConfig
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return the shapes of trained and of frozen parameters by name."""
    _, trained, frozen = split_model(nnx.eval_shape(lambda: ClipBert(config, head, rngs=nnx.Rngs(0))))
    return {name: x.shape for name, x in trained.items()}, {name: x.shape for name, x in frozen.items()}
