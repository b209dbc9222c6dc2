"""The train step: one jitted function from a state and a batch to the next state, on any mesh.

Forward pass, loss, gradient, accumulation and optimizer update are one program, the same on one device and
on many. The state is donated. Dropout keys come from (seed, step): no random state is stored, and a run that
goes on draws the same as an unbroken one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBert, ClipBertOutput
from clipbert_jax.models.model_def import ModelDef, Parameters, split_model
from clipbert_jax.models.pixel_encoder import grid_size
from clipbert_jax.models.visual_embedding import draw_token_sample
from clipbert_jax.tasks.task import Task
from clipbert_jax.training.clip_passes import score_in_passes
from clipbert_jax.training.sharding import (
    constrain_state,
    gather_over_fsdp,
    layer_sharding,
    replicated,
    share_videos,
    state_shardings,
)
from clipbert_jax.training.train_config import TrainConfig

Metrics = dict[str, jax.Array]

_TOKEN_SAMPLE = 1 << 16
"""Number folded into a step's key to draw visual tokens; dropout folds in small numbers."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """All arrays that a step changes, and the frozen ones that it reads."""

    params: Parameters
    frozen: Parameters
    opt_state: Any
    step: Any
    """Number of steps that are done, skipped updates included."""
    ema: Parameters = dataclasses.field(default_factory=dict)
    """Moving averages of `params`, by the same names; empty if the training keeps no average."""

    @property
    def eval_params(self) -> Parameters:
        """All arrays of the model for validation: averages, if there are any, replace trained parameters."""
        return {**self.params, **self.frozen, **self.ema}


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    config: TrainConfig,
) -> tuple[ModelDef, TrainState]:
    """Split a model into its definition and a fresh train state on the mesh.

    Args:
      model: with its first weights.
      optimizer: gets a state for the trained parameters.
      mesh: devices.
      config: says which parameters are frozen, and whether there is a moving average.
    """
    model_def, params, frozen = split_model(model)
    return model_def, first_state(params, frozen, optimizer, mesh, config)


def first_state(
    params: Parameters,
    frozen: Parameters,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    config: TrainConfig,
) -> TrainState:
    """Return the train state of a model's trainable and frozen arrays, before the first step."""
    kept = {name: array for name, array in params.items() if name.startswith(config.frozen_parts)}
    params = {name: array for name, array in params.items() if name not in kept}
    state = TrainState(
        params=params,
        frozen={**frozen, **kept},
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        # Copies: the step donates both, and an array cannot be donated twice.
        ema=jax.tree.map(jnp.copy, params) if config.ema_decay else {},
    )
    return jax.device_put(state, state_shardings(state, mesh))


def make_train_step(
    model_def: ModelDef,
    task: Task,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    config: TrainConfig,
) -> TrainStep:
    """Return the jitted `(state, batch) -> (state, metrics)`; it donates the state.

    Metrics are scalars: `loss`, `loss/<name>` for each of several losses of the task, `grad_norm` (before
    clipping) and `is_skipped`, which is 1 if that norm is not finite. A skipped step keeps parameters,
    averages and moments as they were, and counts as a step for data, dropout and learning rates.

    With `num_accumulation_steps` > 1 the batch is processed in that many parts. `mean` gives the same result
    but for rounding and randomness; with `sum` the loss is the mean of the parts and the gradient their sum.
    `remat` changes only rounding; `clips_per_pass` (0 for all at once) changes rounding and randomness.
    """

    def part_losses(
        params: Parameters, frozen: Parameters, batch: Batch, norms: Metrics, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        model = model_def.merge(gather_over_fsdp({**params, **frozen}, mesh))
        model.set_attributes(remat=config.remat, sharding=layer_sharding(mesh))
        output = forward(model, task, batch, key, mesh, config.clips_per_pass)
        losses, weights = task.losses(output, batch), task.loss_weights(batch)
        terms = {name: jnp.sum(losses[name] * weights[name]) / norms[name] for name in losses}
        return sum(terms.values(), jnp.zeros(())), terms

    grad_of_part = jax.grad(part_losses, has_aux=True)

    def accumulate(
        params: Parameters, frozen: Parameters, batch: Batch, key: jax.Array
    ) -> tuple[Parameters, Metrics]:
        norms = _total_weights(task, batch)
        num_parts, is_mean = config.num_accumulation_steps, config.accumulation == "mean"
        if num_parts == 1:
            return grad_of_part(params, frozen, batch, norms, key)

        leaves, structure = jax.tree.flatten(batch)

        def body(carry: Any, part: tuple[jax.Array, list[jax.Array]]) -> tuple[Any, None]:
            index, part_leaves = part
            part_batch = jax.tree.unflatten(structure, part_leaves)
            part_norms = norms if is_mean else _total_weights(task, part_batch)
            part_key = jax.random.fold_in(key, index)
            added = grad_of_part(params, frozen, part_batch, part_norms, part_key)
            return jax.tree.map(jnp.add, carry, added), None

        folded = [_fold(x, num_parts) for x in leaves]
        first = jax.tree.unflatten(structure, [x[0] for x in folded])
        shapes = jax.eval_shape(grad_of_part, params, frozen, first, norms, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        indices = jnp.arange(num_parts)
        (grads, terms), _ = jax.lax.scan(body, zeros, (indices, folded), unroll=unrolls_loops(mesh))
        num_averaged = 1 if is_mean else num_parts
        return grads, {name: term / num_averaged for name, term in terms.items()}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        grads, terms = accumulate(state.params, state.frozen, batch, key)
        grads = constrain_state(grads, mesh)
        grad_norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(grad_norm)
        metrics = {
            "loss": sum(terms.values(), jnp.zeros(())),
            "grad_norm": grad_norm,
            "is_skipped": 1.0 - is_finite,
        }
        if len(terms) > 1:
            metrics |= {f"loss/{name}": term for name, term in terms.items()}
        next_state = update_state(state, grads, optimizer, is_finite=is_finite, ema_decay=config.ema_decay)
        return constrain_state(next_state, mesh), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(None, replicated(mesh)))


def update_state(
    state: TrainState,
    grads: Parameters,
    optimizer: optax.GradientTransformation,
    *,
    is_finite: jax.typing.ArrayLike,
    ema_decay: float,
) -> TrainState:
    """Return the state after a step; only the step number changes if the gradients are not finite."""
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        grads, state.opt_state, state.params, is_finite=is_finite
    )
    moved = optax.apply_updates(state.params, updates)
    params = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), moved, state.params)
    ema = _moving_average(params, state, ema_decay, is_finite)
    return dataclasses.replace(state, params=params, opt_state=opt_state, ema=ema, step=state.step + 1)


def _moving_average(
    params: Parameters, state: TrainState, decay: float, is_finite: jax.typing.ArrayLike
) -> Parameters:
    """Return the averages after an update from `state` to `params`; empty without a decay.

    The decay is smaller at first, so that averages forget the first parameters: (1 + step) / (10 + step) is
    the warm-up of TensorFlow's `tf.train.ExponentialMovingAverage` with `num_updates`.
    """
    if not decay:
        return {}
    warm_up = (1 + state.step) / (10 + state.step)
    step_size = jnp.where(is_finite, 1 - jnp.minimum(decay, warm_up), 0.0)
    average: Any = optax.incremental_update(params, state.ema, step_size.astype(jnp.float32))
    return average


def forward(
    model: ClipBert,
    task: Task,
    batch: Batch,
    key: jax.Array,
    mesh: Mesh | None = None,
    clips_per_pass: int = 0,
) -> ClipBertOutput:
    """Run the model as training does: with dropout, and on random visual tokens if the task asks for it."""
    sampled_tokens = None
    if task.num_sampled_tokens:
        num_tokens = math.prod(grid_size(model.config.pixel_encoder, *batch.frames.shape[3:5]))
        sample_key = jax.random.fold_in(key, _TOKEN_SAMPLE)
        sampled_tokens = draw_token_sample(sample_key, num_tokens, task.num_sampled_tokens)

    def score(frames: jax.Array, key: jax.Array) -> ClipBertOutput:
        visual_tokens = model.encode_video(frames, dropout_key=key, sampled_tokens=sampled_tokens)
        inputs = visual_tokens, batch.text_ids, batch.text_mask
        return model.score_texts(*(share_videos(inputs, mesh) if mesh else inputs), dropout_key=key)

    is_unrolled = mesh is not None and unrolls_loops(mesh)
    return score_in_passes(score, jnp.asarray(batch.frames), key, clips_per_pass, is_unrolled=is_unrolled)


def unrolls_loops(mesh: Mesh) -> bool:
    """Return whether loops of the step are written out.

    On CPU, XLA optimises convolutions only outside of loops: a ResNet-50 step is then ten times as fast.
    """
    return mesh.devices.flat[0].platform == "cpu"


def _total_weights(task: Task, batch: Batch) -> Metrics:
    """Return the divisor of each loss; a batch of only padding has loss 0, not 0/0."""
    return {name: jnp.maximum(jnp.sum(weights), 1e-9) for name, weights in task.loss_weights(batch).items()}


def _fold(x: jax.Array, num_parts: int) -> jax.Array:
    """Fold `[b ...]` into `[num_parts b/num_parts ...]`; each part takes every num_parts-th video.

    A device holds consecutive videos, and every part must use every device.
    """
    if x.shape[0] % num_parts:
        raise ValueError(
            f"a batch of {x.shape[0]} videos does not divide into {num_parts} parts: set "
            f"train.batch_size to a multiple of train.num_accumulation_steps"
        )
    return x.reshape(x.shape[0] // num_parts, num_parts, *x.shape[1:]).swapaxes(0, 1)
