"""Each lever changes what the train step costs, and not what it computes.

XLA's CPU compiler takes away the barriers that hold recomputation back, and schedules for concurrency: the
memory of its programs says nothing of rematerialisation. What is counted instead is what JAX keeps for the
backward pass; docs/speed.md has the memory of programs for a GPU. Loops keep their order there too.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import PretrainingHeadConfig
from clipbert_jax.models.pixel_encoder import PixelEncoder
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.training import step as step_module
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import make_mesh, put_batch
from clipbert_jax.training.step import (
    TrainState,
    forward,
    make_train_state,
    make_train_step,
    update_state,
)
from clipbert_jax.training.train_config import TrainConfig

from .conftest import TASK, make_batch, small_config

# Instead of moments its state holds the last gradients, exactly.
GRADIENTS = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)


class Step(NamedTuple):
    """A compiled step, and what it did with a batch."""

    temporary_bytes: int
    argument_bytes: int
    flops: float
    loss: float
    state: Any


def run(
    *,
    optimizer: optax.GradientTransformation = GRADIENTS,
    config: ClipBertConfig | None = None,
    frozen_parts: tuple[str, ...] = (),
    **levers: Any,
) -> Step:
    """Compile a step with these levers, and take it."""
    mesh = make_mesh(jax.devices()[:1])
    model = ClipBert(config or small_config(), TASK.head, rngs=nnx.Rngs(0))
    train_config = TrainConfig(frozen_parts=frozen_parts, **levers)
    model_def, state = make_train_state(model, optimizer, mesh, train_config)
    step = make_train_step(model_def, TASK, optimizer, mesh, train_config)
    # A Batch checks the shapes of its arrays, and JAX puts descriptions in their place.
    arrays, structure = jax.tree.flatten(put_batch(make_batch(0), mesh))
    step_of_arrays = jax.jit(lambda state, arrays: step(state, structure.unflatten(arrays)), donate_argnums=0)
    compiled = step_of_arrays.lower(state, arrays).compile()
    state, metrics = compiled(state, arrays)
    memory = compiled.memory_analysis()
    return Step(
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
        compiled.cost_analysis()["flops"],
        float(metrics["loss"]),
        jax.device_get(state),
    )


@functools.cache
def plain(dropout_rate: float = 0.0) -> Step:
    """Return the step without any lever."""
    return run(config=small_config(dropout_rate=dropout_rate))


def assert_same(found: Step, expected: Step) -> None:
    """Compare losses and gradients, up to rounding."""
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    gradients, wanted = found.state.opt_state, expected.state.opt_state
    assert gradients.keys() == wanted.keys()
    largest = max(np.abs(gradient).max() for gradient in wanted.values())
    for name, gradient in wanted.items():
        # Some are sums that cancel, as those of the keys' biases, and nothing but rounding.
        scale = max(np.abs(gradient).max(), 1e-2 * largest)
        np.testing.assert_allclose(gradients[name], gradient, rtol=0, atol=1e-5 * scale, err_msg=name)


# ---- Rematerialisation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("remat", [pytest.param("dots", marks=pytest.mark.slow), "full"])
def test_remat_computes_more_and_the_same_with_dropout_too(remat):
    again = run(remat=remat, config=small_config(dropout_rate=0.5))
    assert again.flops > 1.01 * plain(0.5).flops
    assert_same(again, plain(0.5))


def test_remat_keeps_less():
    none, dots, full = (kept_bytes(remat) for remat in ("none", "dots", "full"))
    assert full < 0.4 * none
    assert full < dots < 0.9 * none


def kept_bytes(remat: str) -> int:
    """Return how much a model with more layers keeps for its backward pass, without its parameters."""
    small = small_config(dropout_rate=0.1)
    config = dataclasses.replace(small, fusion=dataclasses.replace(small.fusion, num_layers=4))
    model = ClipBert(config, TASK.head, rngs=nnx.Rngs(0))
    model.set_attributes(remat=remat)
    graphdef, params, frozen = nnx.split(model, nnx.Param, ...)
    batch = make_batch(0)

    def scores(params: nnx.State) -> jax.Array:
        model = nnx.merge(graphdef, params, frozen, copy=True)
        return forward(model, TASK, batch, jax.random.key(0)).scores

    kept = jax.eval_shape(lambda params: jax.vjp(scores, params)[1], params)
    return _num_bytes(kept) - _num_bytes((params, frozen))


def _num_bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("num_frozen_stages", [0, 3])
def test_frozen_stages_are_not_computed_again(num_frozen_stages):
    pixel_encoder = dataclasses.replace(
        small_config().pixel_encoder, num_frozen_stages=num_frozen_stages, is_norm_trainable=False
    )
    encoder = PixelEncoder(dataclasses.replace(small_config(), pixel_encoder=pixel_encoder), rngs=nnx.Rngs(0))

    def flops(remat: str) -> float:
        encoder.set_attributes(remat=remat)
        graphdef, params, frozen = nnx.split(encoder, nnx.Param, ...)

        def loss(params: nnx.State) -> jax.Array:
            encoder = nnx.merge(graphdef, params, frozen, copy=True)
            return jnp.sum(encoder(jnp.ones((2, 32, 32, 3))) ** 2)

        return jax.jit(jax.grad(loss)).lower(params).cost_analysis()["flops"]

    if num_frozen_stages:
        assert flops("full") == flops("none")
    else:
        assert flops("full") > 1.02 * flops("none")


# ---- Fewer clips, and fewer videos, at a time -------------------------------------------------------------


@pytest.fixture
def in_loops(monkeypatch):
    """Keep loops as loops, as on other devices than CPUs."""
    monkeypatch.setattr(step_module, "unrolls_loops", lambda mesh: False)


@pytest.mark.parametrize("levers", [{"clips_per_pass": 1}, {"num_accumulation_steps": 4}])
def test_parts_need_less_memory_for_the_same_results(in_loops, levers):
    in_parts = run(**levers)
    assert in_parts.temporary_bytes < 0.7 * plain().temporary_bytes
    assert_same(in_parts, plain())


@pytest.mark.parametrize("levers", [{"clips_per_pass": 1, "remat": "full", "num_accumulation_steps": 2}])
def test_levers_combine_and_loops_may_be_written_out(levers):
    assert_same(run(**levers), plain())


def test_passes_give_the_scores_of_all_clips_in_order():
    task = Pretraining(num_sampled_tokens=2)
    model = ClipBert(small_config(), PretrainingHeadConfig(), rngs=nnx.Rngs(0))
    at_once, in_passes = (outputs(model, task, four_clips(), clips_per_pass=number) for number in (4, 2))
    for found, expected in zip(in_passes, at_once, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_passes_draw_dropout_each_for_itself():
    model = ClipBert(small_config(dropout_rate=0.5), TASK.head, rngs=nnx.Rngs(0))
    batch = four_clips()
    same = dataclasses.replace(batch, frames=np.repeat(batch.frames[:, :1], 4, axis=1))
    scores, _, _ = outputs(model, TASK, same, clips_per_pass=1)
    for clip in range(1, 4):
        assert np.abs(scores[:, clip] - scores[:, 0]).max() > 1e-3


def outputs(model, task, batch, *, clips_per_pass):
    """Return what the model puts out in training."""

    @jax.jit
    def run():
        output = forward(model, task, batch, jax.random.key(0), clips_per_pass=clips_per_pass)
        return output.scores, output.token_scores, output.pooled

    return run()


def four_clips():
    batches = [make_batch(seed, num_videos=2) for seed in range(2)]
    return dataclasses.replace(batches[0], frames=np.concatenate([x.frames for x in batches], axis=1))


def test_passes_that_leave_clips_over_are_refused():
    model = ClipBert(small_config(), TASK.head, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"4 clips do not divide into passes of 3: set train\.clips_per_pass"
    ):
        forward(model, TASK, four_clips(), jax.random.key(0), clips_per_pass=3)


# ---- Less to train, fewer bits ----------------------------------------------------------------------------

FROZEN = ("pixel_encoder/", "text_encoder/word")


def test_frozen_parts_cost_nothing_and_leave_the_others_as_they_are():
    config = OptimizerConfig(
        transformer_learning_rate=1e-2, pixel_encoder_learning_rate=1e-2, weight_decay=0.0
    )
    adam = make_optimizer(config, num_steps=2)
    masked = run(optimizer=optax.chain(optax.stateless(_mask_frozen), adam))
    frozen = run(optimizer=adam, frozen_parts=FROZEN)
    num_kept = sum(name.startswith(FROZEN) for name in masked.state.params)
    assert num_kept > 10
    assert len(frozen.state.params) == len(masked.state.params) - num_kept
    for name, value in frozen.state.params.items():
        np.testing.assert_allclose(value, masked.state.params[name], atol=1e-5, err_msg=name)
    saved = sum(x.nbytes for name, x in masked.state.params.items() if name.startswith(FROZEN))
    assert masked.argument_bytes - frozen.argument_bytes >= 2 * saved, "both moments of Adam"
    assert frozen.flops < 0.75 * masked.flops, "no gradient of the pixel encoder"
    assert frozen.temporary_bytes < masked.temporary_bytes


def _mask_frozen(grads: optax.Updates, params: optax.Params | None) -> optax.Updates:
    assert isinstance(grads, dict)
    return {name: jnp.zeros_like(x) if name.startswith(FROZEN) else x for name, x in grads.items()}


def test_bfloat16_needs_less_memory_for_almost_the_same_loss():
    half = run(config=dataclasses.replace(small_config(), compute_dtype="bfloat16"))
    assert half.temporary_bytes < 0.95 * plain().temporary_bytes, "though a CPU widens before convolutions"
    assert half.loss == pytest.approx(plain().loss, rel=2e-2)
    assert {x.dtype for x in half.state.params.values()} == {np.dtype(np.float32)}


# ---- Updates that may be left out -------------------------------------------------------------------------


def test_looking_whether_to_update_costs_neither_memory_nor_traffic():
    optimizer = make_optimizer(OptimizerConfig(), num_steps=2)
    params = {name: jnp.ones((512, 512)) for name in ("fusion/kernel", "pixel_encoder/kernel", "head/bias")}
    state = TrainState(
        params=params, frozen={}, opt_state=optimizer.init(params), step=jnp.zeros((), int), ema=params
    )

    def compiled(is_finite):
        def update(state, grads):
            return update_state(state, grads, optimizer, is_finite=is_finite(grads), ema_decay=0.9)

        return jax.jit(update).lower(state, params).compile()

    guarded = compiled(lambda grads: jnp.isfinite(optax.tree.norm(grads)))
    unguarded = compiled(lambda grads: True)
    assert guarded.cost_analysis()["bytes accessed"] < 1.01 * unguarded.cost_analysis()["bytes accessed"]
    assert guarded.memory_analysis().temp_size_in_bytes < 1000, "no copy of an array"
