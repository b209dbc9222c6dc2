"""Programs of the workloads, as training and evaluation run them; for timing, compiling and counting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from benchmarks.workloads import Workload
from clipbert_jax.costs.devices import Platform
from clipbert_jax.costs.program import TracedProgram, read_program
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.kernel_choices import KernelChoices, default_kernel_choices
from clipbert_jax.models.model_def import ModelDef, Parameters, split_model
from clipbert_jax.training.optimizer import OptimizerConfig
from clipbert_jax.training.sharding import batch_sharding, make_mesh
from clipbert_jax.training.step import TrainState, TrainStep
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.train_program import (
    BatchShape,
    Program,
    TrainSetting,
    batch_arrays,
    placed,
    trace_train_step,
    train_functions,
    train_program,
)


def make_program(workload: Workload, mesh: Mesh, kernels: KernelChoices) -> Program:
    """Return the program of a workload for a mesh, whose devices need not be there."""
    if workload.kind == "train":
        return train_program(train_setting(workload), mesh, kernels)
    model_def, params, frozen = split_model(nnx.eval_shape(lambda: make_model(workload, kernels)))
    arrays = placed({**params, **frozen}, mesh)
    sharding = batch_sharding(mesh)
    frames, *texts = (
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        for x in map(batch_arrays(train_setting(workload)).__getitem__, ("frames", "text_ids", "text_mask"))
    )
    if workload.kind == "inference":
        return Program(function=inference(model_def, workload), arguments=(arrays, frames, *texts))
    tokens = jax.ShapeDtypeStruct(
        visual_tokens_shape(workload), workload.model.compute_dtype, sharding=sharding
    )
    return Program(function=pair_scoring(model_def, workload), arguments=(arrays, tokens, *texts))


def training(
    workload: Workload, mesh: Mesh, kernels: KernelChoices
) -> tuple[Callable[[], TrainState], TrainStep]:
    """Return a function that makes the first state, and the jitted train step."""
    return train_functions(train_setting(workload), mesh, kernels)


def inference(model_def: ModelDef, workload: Workload) -> Any:
    """Return the jitted way from frames and texts to what the texts are ranked by [b n]."""

    @jax.jit
    def infer(arrays: Parameters, frames: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return workload.task.match_logit(model_def.merge(arrays)(frames, ids, mask).scores)  # type: ignore[union-attr]

    return infer


def pair_scoring(model_def: ModelDef, workload: Workload) -> Any:
    """Return the jitted way from visual tokens and texts to what the texts are ranked by [b n]."""

    @jax.jit
    def score(arrays: Parameters, tokens: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
        output = model_def.merge(arrays).score_texts(tokens, ids, mask)
        return workload.task.match_logit(output.scores)  # type: ignore[union-attr]

    return score


def make_model(workload: Workload, kernels: KernelChoices) -> ClipBert:
    """Return a model with random weights."""
    return ClipBert(workload.model, workload.task.head, rngs=nnx.Rngs(0), kernels=kernels)


def change(kernels: KernelChoices, changes: Mapping[str, Any]) -> KernelChoices:
    """Return kernel choices with some fields changed, as JSON has them."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return dataclasses.replace(kernels, **fields)


def visual_tokens_shape(workload: Workload) -> tuple[int, int, int, int]:
    """Return [b k v d]."""
    width = workload.model.fusion.hidden_size
    return workload.batch_size, workload.num_clips, workload.num_visual_tokens, width


def train_setting(workload: Workload, **options: Any) -> TrainSetting:
    """Return what decides the train step of a workload's task; `options` are of `TrainConfig`."""
    return TrainSetting(
        model=workload.model,
        task=workload.task,
        optimizer=OptimizerConfig(),
        train=TrainConfig(batch_size=workload.batch_size, **options),
        shape=batch_shape(workload),
    )


def batch_shape(workload: Workload) -> BatchShape:
    """Return the shape of the workload's batch, over all devices."""
    return BatchShape(
        num_videos=workload.batch_size,
        num_clips=workload.num_clips,
        num_frames=workload.num_frames,
        height=workload.size,
        width=workload.size,
        num_texts=workload.num_texts,
        text_length=workload.text_length,
    )


def trace_workload(workload: Workload, platform: Platform | None = None) -> TracedProgram:
    """Return the operations of a workload's program, as it is written for a platform; all on one device.

    Attention is traced as products: the kernel that fuses it hides them.
    """
    kernels = default_kernel_choices(platform)
    if workload.kind == "train":
        jaxpr = trace_train_step(train_setting(workload), kernels)
        return read_program(jaxpr, platform=platform or "gpu")
    kernels = dataclasses.replace(kernels, has_fused_attention=False)
    program = make_program(workload, make_mesh(jax.devices()[:1]), kernels)
    jaxpr = program.function.trace(*program.arguments).jaxpr
    return read_program(jaxpr, platform=platform or "gpu", is_training=False)
