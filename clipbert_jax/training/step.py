"""The train step: one jitted function from a state and a batch to the next state, on any mesh.

Forward, task loss, gradient, accumulation, optimizer update: one compiled program, the same on one
device and on many. The state is donated; dropout keys come from (seed, step), so nothing about
randomness is stored and a resumed run draws what the unbroken run would have drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from clipbert_jax.batch import Batch
from clipbert_jax.models.skeleton import Parameters, Skeleton, split_model
from clipbert_jax.training.sharding import replicated

Metrics = dict[str, jax.Array]


@runtime_checkable
class Task(Protocol):
    """What a task must offer to be trained: unreduced losses, and weights that are 0 for padding."""

    def losses(self, output: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Return losses and weights of one shape; the step minimises their weighted mean."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything that a step changes, and the frozen arrays that it reads."""

    params: Parameters
    frozen: Parameters
    opt_state: Any
    step: Any
    """Number of updates done."""


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_state(
    model: nnx.Module, optimizer: optax.GradientTransformation, mesh: Mesh
) -> tuple[Skeleton, TrainState]:
    """Split a model into its skeleton and a fresh train state on the mesh."""
    skeleton, params, frozen = split_model(model)
    state = TrainState(
        params=params, frozen=frozen, opt_state=optimizer.init(params), step=jnp.zeros((), jnp.int32)
    )
    return skeleton, jax.device_put(state, replicated(mesh))


def make_train_step(
    skeleton: Skeleton,
    task: Task,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    num_accumulation_steps: int = 1,
) -> TrainStep:
    """Return the jitted `(state, batch) -> (state, metrics)`; it donates the state.

    Metrics are float32 scalars: `loss` (weighted mean over the texts of the batch), `grad_norm`
    (before clipping). With `num_accumulation_steps` > 1 the batch is processed in that many parts, to
    the same result but for rounding and dropout.
    """

    def loss_sum(
        params: Parameters, frozen: Parameters, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        model = skeleton.merge({**params, **frozen})
        output = model(batch.frames, batch.text_ids, batch.text_mask, dropout_key=key)
        losses, weights = task.losses(output, batch)
        return jnp.sum(losses * weights), jnp.sum(weights)

    grad_of_sum = jax.value_and_grad(loss_sum, has_aux=True)

    def accumulate(
        params: Parameters, frozen: Parameters, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Parameters]:
        if num_accumulation_steps == 1:
            (total, weight), grads = grad_of_sum(params, frozen, batch, key)
            return total, weight, grads

        leaves, structure = jax.tree.flatten(batch)

        def body(carry: Any, part: tuple[jax.Array, list[jax.Array]]) -> tuple[Any, None]:
            index, part_leaves = part
            part_key = jax.random.fold_in(key, index)
            part_batch = jax.tree.unflatten(structure, part_leaves)
            (total, weight), grads = grad_of_sum(params, frozen, part_batch, part_key)
            return jax.tree.map(jnp.add, carry, (total, weight, grads)), None

        parts = (jnp.arange(num_accumulation_steps), [_fold(x, num_accumulation_steps) for x in leaves])
        first = jax.tree.unflatten(structure, [x[0] for x in parts[1]])
        shapes = jax.eval_shape(lambda: grad_of_sum(params, frozen, first, key))
        (total, weight), grads = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carry, _ = jax.lax.scan(body, (total, weight, grads), parts)
        return carry

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        total, weight, grads = accumulate(state.params, state.frozen, batch, key)
        # A batch of padding alone has weight 0; its gradient is 0 as well.
        scale = 1.0 / jnp.maximum(weight, 1e-9)
        grads = jax.tree.map(lambda grad: grad * scale, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": total * scale, "grad_norm": optax.tree.norm(grads)}
        next_state = TrainState(
            params=params,  # type: ignore[arg-type]
            frozen=state.frozen,
            opt_state=opt_state,
            step=state.step + 1,
        )
        return next_state, metrics

    return jax.jit(step, donate_argnums=0, out_shardings=replicated(mesh))


def _fold(x: jax.Array, num_parts: int) -> jax.Array:
    """Fold `[b ...]` into `[num_parts b/num_parts ...]`, each part taking every num_parts-th video.

    Interleaved, because a device holds consecutive videos and every part must use every device.
    """
    if x.shape[0] % num_parts:
        raise ValueError(
            f"A batch of {x.shape[0]} videos does not divide into {num_parts} parts: set "
            f"train.batch_size to a multiple of train.num_accumulation_steps."
        )
    return x.reshape(x.shape[0] // num_parts, num_parts, *x.shape[1:]).swapaxes(0, 1)
