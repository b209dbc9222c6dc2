"""The programs of the workloads, as training and evaluation run them: for timing and for compiling alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from benchmarks.workloads import Workload, synthetic_batch
from clipbert_jax.batch import Batch
from clipbert_jax.costs.model import Costs, model_costs
from clipbert_jax.costs.sizes import BatchShape
from clipbert_jax.costs.work import Assumptions
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.lowering import Lowering
from clipbert_jax.models.skeleton import Parameters, Skeleton, split_model
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import batch_sharding, replicated
from clipbert_jax.training.step import TrainState, make_train_state, make_train_step

_MAKE_OPTIMIZER = OptimizerConfig()
_NUM_STEPS = 1000  # of the schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A jitted function and descriptions of its arguments."""

    function: Any
    arguments: tuple[Any, ...]
    """Shapes, data types and shardings."""

    def lower(self) -> jax.stages.Lowered:
        """Trace and lower it, from the descriptions alone."""
        return self.function.lower(*self.arguments)


def make_program(workload: Workload, mesh: Mesh, lowering: Lowering) -> Program:
    """Return the program of a workload for a mesh, whose devices need not be there."""
    batch = _describe_batch(workload, mesh)
    if workload.kind == "train":
        make_state, step = training(workload, mesh, lowering)
        return Program(function=step, arguments=(_placed(jax.eval_shape(make_state), mesh), batch))
    skeleton, params, frozen = split_model(nnx.eval_shape(lambda: make_model(workload, lowering)))
    arrays = _placed({**params, **frozen}, mesh)
    texts = (batch.text_ids, batch.text_mask)
    if workload.kind == "inference":
        return Program(function=inference(skeleton, workload), arguments=(arrays, batch.frames, *texts))
    tokens = jax.ShapeDtypeStruct(
        visual_tokens_shape(workload), workload.model.compute_dtype, sharding=batch_sharding(mesh)
    )
    return Program(function=pair_scoring(skeleton, workload), arguments=(arrays, tokens, *texts))


def training(
    workload: Workload, mesh: Mesh, lowering: Lowering
) -> tuple[Callable[[], TrainState], Callable[..., Any]]:
    """Return a function that makes the first state, and the jitted train step."""
    optimizer = make_optimizer(_MAKE_OPTIMIZER, num_steps=_NUM_STEPS)

    def make_state() -> TrainState:
        return make_train_state(make_model(workload, lowering), optimizer, mesh)[1]

    skeleton, _, _ = split_model(nnx.eval_shape(lambda: make_model(workload, lowering)))
    return make_state, make_train_step(skeleton, workload.task, optimizer, mesh, seed=0)


def inference(skeleton: Skeleton, workload: Workload) -> Any:
    """Return the jitted way from frames and texts to what the texts are ranked by [b n]."""

    @jax.jit
    def infer(arrays: Parameters, frames: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return workload.task.match_logit(skeleton.merge(arrays)(frames, ids, mask).scores)  # type: ignore[union-attr]

    return infer


def pair_scoring(skeleton: Skeleton, workload: Workload) -> Any:
    """Return the jitted way from visual tokens and texts to what the texts are ranked by [b n]."""

    @jax.jit
    def score(arrays: Parameters, tokens: jax.Array, ids: jax.Array, mask: jax.Array) -> jax.Array:
        output = skeleton.merge(arrays).score_texts(tokens, ids, mask)
        return workload.task.match_logit(output.scores)  # type: ignore[union-attr]

    return score


def make_model(workload: Workload, lowering: Lowering) -> ClipBert:
    """Return a model with random weights."""
    return ClipBert(workload.model, workload.task.head, rngs=nnx.Rngs(0), lowering=lowering)


def change(lowering: Lowering, changes: Mapping[str, Any]) -> Lowering:
    """Return a lowering with some of its fields changed, as JSON has them."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return dataclasses.replace(lowering, **fields)


def visual_tokens_shape(workload: Workload) -> tuple[int, int, int, int]:
    """Return [b k v d]."""
    width = workload.model.fusion.hidden_size
    return workload.batch_size, workload.num_clips, workload.num_visual_tokens, width


def costs_of(workload: Workload, **assumptions: bool) -> Costs:
    """Return what the workload costs by `clipbert_jax.costs`, on all devices together."""
    shape = BatchShape(
        num_videos=workload.batch_size,
        num_clips=workload.num_clips,
        num_frames=workload.num_frames,
        height=workload.size,
        width=workload.size,
        num_texts=workload.num_texts,
        text_length=workload.text_length,
        num_sampled_tokens=workload.task.num_sampled_tokens if workload.kind == "train" else 0,
        is_training=workload.kind == "train",
        encodes_video=workload.kind != "pairs",
    )
    return model_costs(workload.model, workload.task.head, shape, Assumptions(**assumptions))


def _placed(tree: Any, mesh: Mesh) -> Any:
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _describe_batch(workload: Workload, mesh: Mesh) -> Batch:
    one = synthetic_batch(dataclasses.replace(workload, batch_size=1))
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (workload.batch_size, *x.shape[1:]), jnp.result_type(x), sharding=sharding
        ),
        one,
    )
