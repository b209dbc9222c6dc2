"""Moving averages of the parameters: what they are, that they outlive a stop, and that they are evaluated."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.training.checkpoint import Checkpointer, ResumePoint
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.saved_checkpoint import SavedCheckpoint
from clipbert_jax.training.sharding import make_mesh, put_batch
from clipbert_jax.training.step import make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig

from .conftest import TASK, make_batch, small_config

DECAY = 0.2


class Training:
    """A training with averages, a step at a time."""

    def __init__(self):
        self.mesh = make_mesh(jax.devices()[:1])
        self.optimizer = make_optimizer(OptimizerConfig(transformer_learning_rate=1e-2), num_steps=4)
        self.model_def, _ = self.fresh()
        self.step = make_train_step(
            self.model_def, TASK, self.optimizer, self.mesh, TrainConfig(ema_decay=DECAY)
        )

    def fresh(self, *, has_ema=True):
        """Return the model_def and a first state."""
        model = ClipBert(small_config(dropout_rate=0.1), TASK.head, rngs=nnx.Rngs(0))
        return make_train_state(model, self.optimizer, self.mesh, TrainConfig(ema_decay=DECAY * has_ema))

    def states(self, state, numbers):
        """Yield the states after the steps of these numbers."""
        for number in numbers:
            state, _ = self.step(state, put_batch(make_batch(number), self.mesh))
            yield state


@pytest.fixture(scope="module")
def training():
    return Training()


def test_the_average_follows_the_parameters_faster_at_first(training):
    _, state = training.fresh()
    expected = jax.device_get(state.params)
    states = training.states(state, range(3))
    for decay in (1 / 10, 2 / 11, DECAY):
        state = next(states)
        params = jax.device_get(state.params)
        expected = {name: decay * x + (1 - decay) * params[name] for name, x in expected.items()}
        for name, average in jax.device_get(state.ema).items():
            np.testing.assert_allclose(average, expected[name], rtol=1e-5, atol=1e-7, err_msg=name)
    assert state.eval_params.keys() == state.params.keys() | state.frozen.keys()
    for name, array in state.eval_params.items():
        assert array is (state.frozen | state.ema)[name]


def test_a_continued_run_has_the_averages_of_an_unbroken_one(training, tmp_path):
    *_, state = training.states(training.fresh()[1], range(2))
    checkpointer = save(tmp_path, state)
    *_, unbroken = training.states(state, [2])

    restored, _ = checkpointer.restore(training.fresh()[1])
    checkpointer.close()
    *_, continued = training.states(restored, [2])
    for part in ("params", "ema", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(continued, part), getattr(unbroken, part))


@pytest.mark.parametrize("has_ema", [True, False])
def test_a_trained_model_is_its_average_if_it_has_one(training, tmp_path, has_ema):
    _, state = training.fresh(has_ema=has_ema)
    state = dataclasses.replace(state, ema={name: x + 1 for name, x in state.ema.items()})
    save(tmp_path, state).close()
    checkpoint = SavedCheckpoint(tmp_path)
    assert checkpoint.has_ema is has_ema
    loaded = checkpoint.load_parameters({**state.params, **state.frozen})
    assert loaded.keys() == state.eval_params.keys()
    jax.tree.map(np.testing.assert_array_equal, loaded, state.eval_params)


def save(workdir, state):
    """Save a state, and wait for it."""
    checkpointer = Checkpointer(workdir, config={}, log=print)
    checkpointer.save(state, ResumePoint(data={"next_step": int(state.step)}), best_step=None)
    checkpointer.close()
    return Checkpointer(workdir, config={}, log=print)
