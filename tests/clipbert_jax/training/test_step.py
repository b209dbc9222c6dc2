"""The train step: the same on any number of devices, in any number of parts, from any start."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import make_mesh, put_batch
from clipbert_jax.training.step import make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig

from .conftest import TASK, make_batch, small_config

OPTIMIZER = OptimizerConfig(transformer_learning_rate=1e-2, pixel_encoder_learning_rate=1e-2)


def make_model(dropout_rate):
    return ClipBert(small_config(dropout_rate=dropout_rate), TASK.head, rngs=nnx.Rngs(0))


@functools.cache
def program(num_devices, dropout_rate, seed, num_accumulation_steps):
    """Return a mesh, an optimizer and a step, which is compiled once for all tests."""
    mesh = make_mesh(jax.devices()[:num_devices])
    optimizer = make_optimizer(OPTIMIZER, num_steps=4)
    model_def, _ = make_train_state(make_model(dropout_rate), optimizer, mesh, TrainConfig())
    step = make_train_step(
        model_def,
        TASK,
        optimizer,
        mesh,
        TrainConfig(seed=seed, num_accumulation_steps=num_accumulation_steps),
    )
    return mesh, optimizer, step


def run(batches, *, num_devices=1, dropout_rate=0.0, seed=0, num_accumulation_steps=1):
    """Train on the batches; return the metrics of each step and the last state."""
    mesh, optimizer, step = program(num_devices, dropout_rate, seed, num_accumulation_steps)
    _, state = make_train_state(make_model(dropout_rate), optimizer, mesh, TrainConfig())
    start = jax.device_get(state)
    history = []
    for batch in batches:
        state, metrics = step(state, put_batch(batch, mesh))
        history.append(jax.device_get(metrics))
    assert step._cache_size() == 1, "one compilation for all steps"
    return history, start, jax.device_get(state)


@functools.cache
def run_whole():
    """Train on the three batches, each whole, on one device."""
    return run([make_batch(seed) for seed in range(3)])


def losses(history):
    return [float(metrics["loss"]) for metrics in history]


@pytest.mark.slow  # test_sharding.py has eight devices of three axes
def test_eight_devices_train_as_one(batches):
    one, _, state_of_one = run(batches, dropout_rate=0.1)
    eight, _, state_of_eight = run(batches, dropout_rate=0.1, num_devices=8)
    np.testing.assert_allclose(losses(eight), losses(one), rtol=1e-5)
    assert len(set(losses(one))) == 3
    for name, value in state_of_one.params.items():
        np.testing.assert_allclose(state_of_eight.params[name], value, atol=2e-4, err_msg=name)


def test_accumulation_changes_memory_and_not_results(batches):
    whole, _, _ = run_whole()
    parts, _, _ = run(batches, num_accumulation_steps=4)
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-5)
    np.testing.assert_allclose([m["grad_norm"] for m in parts], [m["grad_norm"] for m in whole], rtol=1e-4)


@pytest.mark.slow
def test_accumulation_on_several_devices(batches):
    whole, _, _ = run_whole()
    parts, _, _ = run(batches, num_accumulation_steps=2, num_devices=4)
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-5)


def test_missing_texts_and_videos_do_not_count():
    batch = make_batch(0)
    valid = np.array(batch.text_valid)
    valid[:, 2] = False
    mask = np.arange(8) < 6
    padded = dataclasses.replace(batch, text_valid=valid, example_mask=mask)
    scribbled = dataclasses.replace(
        padded,
        frames=np.where(mask[:, None, None, None, None, None], batch.frames, 255),
        labels=np.where(valid, batch.labels, 1),
    )
    first, _, _ = run([padded], num_accumulation_steps=4)
    second, _, _ = run([scribbled])
    assert losses(first) == pytest.approx(losses(second), rel=1e-5)


def test_frozen_arrays_stay_and_all_others_move():
    _, start, end = run_whole()
    assert any(name.startswith("pixel_encoder/stem/kernel") for name in start.frozen)
    for name, value in start.frozen.items():
        np.testing.assert_array_equal(end.frozen[name], value, err_msg=name)
    # Unused positions and words have no gradient; each array as a whole must have changed. Keys of
    # attention have a bias that softmax cancels.
    still = [name for name, value in start.params.items() if np.array_equal(end.params[name], value)]
    assert [name for name in still if not name.endswith("key/bias")] == []
    assert int(end.step) == 3


def test_dropout_depends_on_seed_and_step_alone():
    batches = [make_batch(0)] * 2
    first, _, _ = run(batches, dropout_rate=0.5)
    again, _, _ = run(batches, dropout_rate=0.5)
    other, _, _ = run(batches, dropout_rate=0.5, seed=1)
    assert losses(first) == losses(again)
    assert losses(first)[0] != losses(other)[0]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        put_batch(make_batch(0, num_videos=6), make_mesh(jax.devices()[:8]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Breaking(Retrieval):
    """Retrieval whose loss breaks at a batch without a first text."""

    factor: float

    def losses(self, output, batch):
        is_good = jnp.asarray(batch.text_valid)[0, 0]
        return {
            name: x * jnp.where(is_good, 1.0, self.factor)
            for name, x in super().losses(output, batch).items()
        }


@pytest.mark.parametrize("factor", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_a_step_without_a_finite_gradient_changes_nothing(batches, factor):
    valid = np.array(batches[1].text_valid)
    valid[0, 0] = False
    history = [batches[0], dataclasses.replace(batches[1], text_valid=valid), batches[2]]
    mesh = make_mesh(jax.devices()[:1])
    task = Breaking(num_negatives=2, factor=factor)
    optimizer = make_optimizer(dataclasses.replace(OPTIMIZER, schedule="constant"), num_steps=4)

    config = TrainConfig(ema_decay=0.05)

    def start():
        model = ClipBert(small_config(), task.head, rngs=nnx.Rngs(0))
        return make_train_state(model, optimizer, mesh, config)

    model_def, state = start()
    step = make_train_step(model_def, task, optimizer, mesh, config)
    states, skipped = [], []
    for batch in history:
        state, metrics = step(state, put_batch(batch, mesh))
        states.append(jax.device_get(state))
        skipped.append(float(metrics["is_skipped"]))
    assert skipped == [0, 1, 0]
    before, after, end = states
    jax.tree.map(np.testing.assert_array_equal, (after.params, after.ema), (before.params, before.ema))
    for name in ("mu", "nu"):
        jax.tree.map(
            np.testing.assert_array_equal,
            optax.tree.get(after.opt_state, name),
            optax.tree.get(before.opt_state, name),
        )

    # What comes after is as if the step had not been there, but for the learning rate, here a constant.
    _, state = start()
    for batch in (history[0], history[2]):
        state, _ = step(state, put_batch(batch, mesh))
    jax.tree.map(
        np.testing.assert_array_equal, (end.params, end.ema), jax.device_get((state.params, state.ema))
    )
    assert int(end.step) == 3
    counts = [int(count) for _, count in optax.tree.get_all_with_path(end.opt_state, "count")]
    assert sorted(counts) == [2, 3, 3, 3], "updates in the moments, and steps of three schedules"
