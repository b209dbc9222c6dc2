"""Where arrays live changes what devices exchange and hold, and no result."""

import dataclasses
import re
from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.training import sharding
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import MeshConfig, make_mesh, parameter_sharding, put_batch
from clipbert_jax.training.step import make_train_state, make_train_step

from .conftest import TASK, make_batch, small_config

OPTIMIZER = OptimizerConfig(transformer_learning_rate=1e-2, pixel_encoder_learning_rate=1e-2)

MESHES = {
    "data": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "tensor": MeshConfig(tensor=2),
    "all": MeshConfig(fsdp=2, tensor=2),
}


@pytest.fixture(autouse=True)
def _small_arrays_are_sharded(monkeypatch):
    monkeypatch.setattr(sharding, "_MIN_SHARDED_ELEMENTS", 64)


def prepare(config, num_devices=8, *, dropout_rate=0.0, num_accumulation_steps=1):
    """Return mesh, state and step."""
    mesh = make_mesh(jax.devices()[:num_devices], config)
    model = ClipBert(small_config(dropout_rate=dropout_rate), TASK.head, rngs=nnx.Rngs(0))
    optimizer = make_optimizer(OPTIMIZER, num_steps=4)
    skeleton, state = make_train_state(model, optimizer, mesh)
    step = make_train_step(
        skeleton, TASK, optimizer, mesh, seed=0, num_accumulation_steps=num_accumulation_steps
    )
    return mesh, state, step


def train(config, batches, num_devices=8, **options):
    """Return the losses, the gradient norms and the last state."""
    mesh, state, step = prepare(config, num_devices, **options)
    history = []
    for batch in batches:
        state, metrics = step(state, put_batch(batch, mesh))
        history.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    assert step._cache_size() == 1, "the state comes out where it went in"
    return np.array(history), state


@pytest.fixture(scope="module")
def one_device():
    batches = [make_batch(seed) for seed in range(3)]
    return train(MeshConfig(), batches, 1, dropout_rate=0.1)


@pytest.mark.parametrize("name", MESHES)
def test_every_mesh_trains_as_one_device(name, one_device, batches):
    history, state = train(MESHES[name], batches, dropout_rate=0.1)
    np.testing.assert_allclose(history, one_device[0], rtol=1e-5)
    for name, value in jax.device_get(one_device[1].params).items():
        np.testing.assert_allclose(jax.device_get(state.params[name]), value, atol=2e-4, err_msg=name)


def test_accumulation_on_a_mesh_of_all_axes(batches):
    whole, _ = train(MeshConfig(), batches, 1)
    parts, _ = train(MeshConfig(fsdp=2), batches, 4, num_accumulation_steps=2)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def bytes_on_a_device(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def test_fsdp_divides_parameters_and_moments():
    _, whole, _ = prepare(MESHES["data"])
    _, divided, _ = prepare(MESHES["fsdp"])
    for part in ("params", "opt_state"):
        share = bytes_on_a_device(getattr(divided, part)) / bytes_on_a_device(getattr(whole, part))
        assert share < 0.25, "an eighth, and what does not divide"


def test_tensor_divides_the_fusion_by_heads():
    mesh, state, _ = prepare(MESHES["tensor"])
    layer = "fusion/layers/0"
    for name, spec in {
        f"{layer}/query/kernel": PartitionSpec(None, "tensor"),
        f"{layer}/query/bias": PartitionSpec("tensor"),
        f"{layer}/attention_output/kernel": PartitionSpec("tensor"),
        f"{layer}/intermediate/kernel": PartitionSpec(None, "tensor"),
        f"{layer}/output/kernel": PartitionSpec("tensor"),
        f"{layer}/output/bias": PartitionSpec(),
        "text_encoder/word_embeddings/embedding": PartitionSpec("tensor"),
    }.items():
        assert parameter_sharding(name, state.params[name].shape, mesh).spec == spec, name
        assert state.params[name].sharding.is_equivalent_to(
            jax.sharding.NamedSharding(mesh, spec), state.params[name].ndim
        ), name


def collectives(config, batch):
    """Return how often the compiled step has each collective."""
    mesh, state, step = prepare(config)
    text = step.lower(state, put_batch(batch, mesh)).compile().as_text()
    found = re.findall(
        r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", text
    )
    return Counter(found)


def test_data_parallel_exchanges_sums_alone(batches):
    assert set(collectives(MESHES["data"], batches[0])) == {"all-reduce"}


def test_one_device_exchanges_nothing(batches):
    mesh, state, step = prepare(MeshConfig(), 1)
    text = step.lower(state, put_batch(batches[0], mesh)).compile().as_text()
    assert "all-reduce" not in text


def test_axes_that_do_not_divide_the_devices_are_refused():
    with pytest.raises(UserError, match=r"--mesh.fsdp 3 .* 8 device"):
        make_mesh(jax.devices(), MeshConfig(fsdp=3))
    with pytest.raises(UserError, match=r"--mesh.fsdp 0"):
        make_mesh(jax.devices(), MeshConfig(fsdp=0))
    mesh = make_mesh(jax.devices(), MeshConfig(tensor=4))
    with pytest.raises(UserError, match=r"--mesh.tensor 4 does not divide fusion/layers"):
        parameter_sharding("fusion/layers/0/query/kernel", (6, 6), mesh)


def test_devices_of_a_process_follow_each_other():
    """Devices of TPU pods are numbered by place, not by process."""
    devices = [SimpleNamespace(process_index=number % 2, id=number) for number in range(8)]
    mesh = make_mesh(devices, MeshConfig(tensor=2))
    assert [device.process_index for device in mesh.devices.ravel()] == [0] * 4 + [1] * 4
    with pytest.raises(UserError, match=r"4 device.s. of a process"):
        make_mesh(devices, MeshConfig(tensor=8))


def test_whole_parameters_are_whole_everywhere():
    mesh, state, _ = prepare(MESHES["all"])
    whole = sharding.whole_parameters(state.params, mesh)
    for name, value in state.params.items():
        assert whole[name].sharding.is_fully_replicated
        np.testing.assert_array_equal(whole[name], jax.device_get(value))


def test_a_batch_is_in_the_order_of_the_rows(batches):
    mesh = make_mesh(jax.devices(), MESHES["all"])
    placed = put_batch(batches[0], mesh)
    assert dataclasses.is_dataclass(placed)
    np.testing.assert_array_equal(placed.text_ids, batches[0].text_ids)
    assert placed.frames.addressable_shards[0].data.shape[0] == 1
