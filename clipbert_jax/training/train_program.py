"""The train step as a program to trace or to compile, without data, weights or devices.

`clipbert estimate` and the benchmarks call it. A `TrainSetting` holds all that decides the program, as plain
settings, so that it can be sent to a process of another environment.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh

from clipbert_jax.batch import Batch
from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import ClipBert, model_shapes
from clipbert_jax.models.kernel_choices import KernelChoices
from clipbert_jax.models.model_def import Parameters
from clipbert_jax.tasks.task import Losses, Task
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import MeshConfig, batch_sharding, make_mesh, state_shardings
from clipbert_jax.training.step import (
    TrainState,
    TrainStep,
    first_state,
    forward,
    make_train_state,
    make_train_step,
)
from clipbert_jax.training.train_config import TrainConfig

Tree = TypeVar("Tree")

_NUM_STEPS = 1000  # of a schedule, where epochs decide; no operation depends on it


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
    """Shape of a batch."""

    num_videos: int
    num_clips: int
    """Clips per video."""
    num_frames: int
    """Frames per clip."""
    height: int
    """Height of a frame in pixels."""
    width: int
    num_texts: int
    """Texts per video; each meets every clip."""
    text_length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSetting:
    """Settings that decide the program of a train step."""

    model: ClipBertConfig
    task: Task
    optimizer: OptimizerConfig
    train: TrainConfig
    mesh: MeshConfig = MeshConfig()
    shape: BatchShape
    """Shape of the batch of one update, on all devices together."""

    def with_batch_size(self, num_videos: int) -> TrainSetting:
        """Return the setting with another batch."""
        train = dataclasses.replace(self.train, batch_size=num_videos)
        return dataclasses.replace(
            self, train=train, shape=dataclasses.replace(self.shape, num_videos=num_videos)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A jitted function and descriptions of its arguments."""

    function: Any
    arguments: tuple[Any, ...]
    """Shapes, data types and shardings."""

    def lower(self) -> jax.stages.Lowered:
        """Trace and lower it, from the descriptions alone."""
        return self.function.lower(*self.arguments)


def train_functions(
    setting: TrainSetting, mesh: Mesh, kernels: KernelChoices
) -> tuple[Callable[[], TrainState], TrainStep]:
    """Return a function that makes the first state, and the jitted train step."""

    def make_state() -> TrainState:
        model = ClipBert(setting.model, setting.task.head, rngs=nnx.Rngs(0), kernels=kernels)
        return make_train_state(model, _optimizer(setting), mesh, setting.train)[1]

    return make_state, _train_step(setting, mesh, kernels)


def train_program(setting: TrainSetting, mesh: Mesh, kernels: KernelChoices) -> Program:
    """Return the train step for a mesh, whose devices need not be there."""
    state = placed(state_shapes(setting, mesh, kernels), mesh)
    arguments = (state, describe_batch(setting, mesh))
    return Program(function=_train_step(setting, mesh, kernels), arguments=arguments)


def state_shapes(setting: TrainSetting, mesh: Mesh, kernels: KernelChoices) -> TrainState:
    """Return shapes and data types of the state."""
    _, params, frozen = model_shapes(setting.model, setting.task.head, kernels)
    first = functools.partial(first_state, optimizer=_optimizer(setting), mesh=mesh, config=setting.train)
    return jax.eval_shape(first, params, frozen)


def _optimizer(setting: TrainSetting) -> optax.GradientTransformation:
    return make_optimizer(setting.optimizer, num_steps=setting.train.num_steps or _NUM_STEPS)


def _train_step(setting: TrainSetting, mesh: Mesh, kernels: KernelChoices) -> TrainStep:
    model_def, _, _ = model_shapes(setting.model, setting.task.head, kernels)
    return make_train_step(model_def, setting.task, _optimizer(setting), mesh, setting.train)


def forward_program(setting: TrainSetting, mesh: Mesh, kernels: KernelChoices) -> Program:
    """Return the first half of the step: from frames and texts to the losses, with dropout."""
    task = setting.task
    model_def, trained, frozen = model_shapes(setting.model, setting.task.head, kernels)

    @jax.jit
    def losses(arrays: Parameters, batch: Batch) -> Losses:
        return task.losses(forward(model_def.merge(arrays), task, batch, jax.random.key(0), mesh), batch)

    arrays = placed({**trained, **frozen}, mesh)
    return Program(function=losses, arguments=(arrays, describe_batch(setting, mesh)))


def trace_train_step(setting: TrainSetting, kernels: KernelChoices) -> ClosedJaxpr:
    """Return the traced train step of one device that has the whole batch.

    Attention is traced as products: the kernel that fuses it hides them.
    """
    kernels = dataclasses.replace(kernels, has_fused_attention=False)
    mesh = make_mesh(jax.devices()[:1])
    step = _train_step(setting, mesh, kernels)
    trace = jax.make_jaxpr(lambda state, arrays: step(state, Batch(**arrays)))
    return trace(state_shapes(setting, mesh, kernels), batch_arrays(setting))


def describe_batch(setting: TrainSetting, mesh: Mesh) -> Batch:
    """Return the batch of a setting on a mesh, with descriptions in the place of arrays."""
    sharding = batch_sharding(mesh)
    described = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        for name, x in batch_arrays(setting).items()
    }
    return Batch(**described)  # type: ignore[arg-type]


def batch_arrays(setting: TrainSetting) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and data types of the arrays of a batch, by name."""
    task, shape = setting.task, setting.shape
    b, n, length = shape.num_videos, shape.num_texts, shape.text_length
    frames = (b, shape.num_clips, shape.num_frames, shape.height, shape.width, 3)
    return {
        "frames": jax.ShapeDtypeStruct(frames, jnp.uint8),
        "text_ids": jax.ShapeDtypeStruct((b, n, length), jnp.int32),
        "text_mask": jax.ShapeDtypeStruct((b, n, length), jnp.bool_),
        "text_valid": jax.ShapeDtypeStruct((b, n), jnp.bool_),
        "example_mask": jax.ShapeDtypeStruct((b,), jnp.bool_),
        **task.label_shapes(b, n, length),
    }


def placed(tree: Tree, mesh: Mesh) -> Tree:
    """Return descriptions of parameters or of a train state, each where it lives on the mesh."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        state_shardings(tree, mesh),
    )
