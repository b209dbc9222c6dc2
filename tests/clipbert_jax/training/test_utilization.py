"""Operations of a step, and the peak that they are compared with."""

import dataclasses

import jax
import pytest
from flax import nnx

from clipbert_jax.costs.devices import DEVICES
from clipbert_jax.costs.model import model_costs
from clipbert_jax.costs.sizes import BatchShape
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.training import utilization as utilization_module
from clipbert_jax.training.sharding import make_mesh
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


@pytest.mark.parametrize("length", [4, 6])
def test_operations_are_those_of_training_at_the_length_of_the_texts(on_h100, length):
    sizes = {"num_videos": 8, "num_clips": 2, "num_frames": 1, "height": 32, "width": 32, "num_texts": 3}
    shape = BatchShape(**sizes, text_length=length, is_training=True)
    expected = model_costs(small_config(), TASK.head, shape).flops
    assert make_utilization(model(), TASK, mesh()).flops(cut(make_batch(0), length)) == expected
    scored = dataclasses.replace(shape, is_training=False)
    assert expected > model_costs(small_config(), TASK.head, scored).flops


def test_the_peak_is_of_all_devices_in_the_arithmetic_of_the_model(on_h100):
    for dtype, peak in (("bfloat16", 798e12), ("float32", 495e12)):
        for num_devices in (1, 8):
            utilization = make_utilization(model(compute_dtype=dtype), TASK, mesh(num_devices))
            assert utilization.note == ""
            assert utilization.share(10**15, 4.0) == pytest.approx(1e15 / (4 * num_devices * peak))


def test_nothing_is_invented():
    on_cpu = make_utilization(model(), TASK, mesh())
    assert on_cpu.note == "MFU is left out: no float32 peak is known of a cpu device"
    assert on_cpu.flops(make_batch(0)) == 0
    assert on_cpu.share(0, 1.0) is None


def test_frozen_parts_are_not_counted_as_trained(on_h100):
    utilization = make_utilization(model(), TASK, mesh(), has_frozen_parts=True)
    assert "--train.frozen-parts" in utilization.note
    assert utilization.share(10**12, 1.0) is None
