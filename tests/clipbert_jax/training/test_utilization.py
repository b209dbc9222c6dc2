"""Operations of a step, and the peak that they are compared with."""

import dataclasses

import jax
import pytest
from flax import nnx

from clipbert_jax.costs.devices import DEVICES
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.training import utilization as utilization_module
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.step import make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.utilization import make_utilization

from .conftest import TASK, make_batch, small_config


def model(**changes):
    return nnx.eval_shape(
        lambda: ClipBert(dataclasses.replace(small_config(), **changes), TASK.head, rngs=nnx.Rngs(0))
    )


def mesh(num_devices=1):
    return make_mesh(jax.devices()[:num_devices])


@pytest.fixture
def on_h100(monkeypatch):
    monkeypatch.setattr(utilization_module, "known_device", lambda kind: DEVICES["h100"])


def cut(batch, length):
    return dataclasses.replace(
        batch, text_ids=batch.text_ids[..., :length], text_mask=batch.text_mask[..., :length]
    )


def trained(**options):
    """Return the utilization of a train step of the small model."""
    optimizer = make_optimizer(OptimizerConfig(), num_steps=1)
    whole = ClipBert(small_config(), TASK.head, rngs=nnx.Rngs(0))
    config = TrainConfig(**options)
    model_def, state = make_train_state(whole, optimizer, mesh(), config)
    return make_utilization(whole, mesh(), make_train_step(model_def, TASK, optimizer, mesh(), config), state)


def test_operations_are_those_of_the_step_at_the_length_of_the_texts(on_h100):
    utilization, batch = trained(), make_batch(0)
    short, long = (utilization.flops(cut(batch, length)) for length in (4, 6))
    assert 0 < short < long
    assert long == utilization.flops(batch)
    frozen = trained(frozen_parts=("pixel_encoder/", "fusion/"))
    assert frozen.flops(batch) < long


def test_the_peak_is_of_all_devices_in_the_arithmetic_of_the_model(on_h100):
    for dtype, peak in (("bfloat16", 798e12), ("float32", 495e12)):
        for num_devices in (1, 8):
            utilization = make_utilization(model(compute_dtype=dtype), mesh(num_devices), None, {})
            assert utilization.note == ""
            assert utilization.share(10**15, 4.0) == pytest.approx(1e15 / (4 * num_devices * peak))


def test_nothing_is_invented():
    on_cpu = make_utilization(model(), mesh(), None, {})
    assert "cpu" in on_cpu.note
    assert on_cpu.flops(make_batch(0)) == 0
    assert on_cpu.share(0, 1.0) is None
