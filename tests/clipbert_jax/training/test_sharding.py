"""Where arrays live changes what devices exchange and hold, and no result."""

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
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
from clipbert_jax.training.train_config import TrainConfig

from .conftest import TASK, make_batch, small_config

ROOT = Path(__file__).parents[3]
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
    model_def, state = make_train_state(model, optimizer, mesh, TrainConfig())
    step = make_train_step(
        model_def, TASK, optimizer, mesh, TrainConfig(num_accumulation_steps=num_accumulation_steps)
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


# The first three divide in one way each what `all` divides in three ways together.
@pytest.mark.parametrize(
    "name", [*(pytest.param(x, marks=pytest.mark.slow) for x in list(MESHES)[:3]), "all"]
)
def test_every_mesh_trains_as_one_device(name, one_device, batches):
    history, state = train(MESHES[name], batches, dropout_rate=0.1)
    np.testing.assert_allclose(history, one_device[0], rtol=1e-5)
    for name, value in jax.device_get(one_device[1].params).items():
        np.testing.assert_allclose(jax.device_get(state.params[name]), value, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_accumulation_with_fsdp(batches):
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


@pytest.fixture(scope="module")
def compiled():
    """Mesh -> kind and shape of each collective of the compiled step, and what the mesh divides."""
    meshes = {"data": "1,1", "fsdp": "8,1", "tensor": "1,2"}
    command = [sys.executable, "-m", "tests.clipbert_jax.training.print_collectives", *meshes.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=600)
    return {
        name: (
            [(kind, re.sub(r"\{[\d,]*\}", "", shape)) for kind, shape in found["collectives"]],
            found["divided"],
        )
        for name, found in zip(meshes, json.loads(done.stdout), strict=True)
    }


def count(collectives):
    """Return how many there are of each kind."""
    return Counter(kind for kind, _ in collectives)


def test_data_parallel_exchanges_the_weight_of_the_loss_and_the_gradients(compiled):
    collectives, divided = compiled["data"]
    assert count(collectives) == {"all-reduce": 2}
    assert divided == {"fsdp": [], "tensor": []}


def test_fsdp_gathers_each_divided_parameter_and_sums_gradients(compiled):
    collectives, divided = compiled["fsdp"]
    found = count(collectives)
    assert set(found) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert len(divided["fsdp"]) > 10
    assert len(divided["fsdp"]) <= found["all-gather"] <= len(divided["fsdp"]) + 2


def test_tensor_sums_partial_products_and_gives_videos_to_each_other(compiled):
    collectives, divided = compiled["tensor"]
    assert set(count(collectives)) == {"all-gather", "all-reduce"}
    gathered = {shape for kind, shape in collectives if kind == "all-gather"}
    assert gathered == {
        "s32[2,3,6]",  # texts
        "pred[2,3,6]",
        "f32[2,2,4,16]",  # visual tokens
        "f32[12,1,16]",  # last states, of [CLS]: no parameter
    }
    summed = [shape for kind, shape in collectives if kind == "all-reduce" and "[12," in shape]
    assert len(summed) == 4, "two for a layer, in each direction"
    assert {name.split("/")[0] for name in divided["tensor"]} == {"fusion", "text_encoder"}


def test_axes_that_do_not_divide_the_devices_are_refused():
    with pytest.raises(UserError, match=r"--mesh.fsdp 3 .* 8 device"):
        make_mesh(jax.devices(), MeshConfig(fsdp=3))
    with pytest.raises(UserError, match=r"--mesh.fsdp 0"):
        make_mesh(jax.devices(), MeshConfig(fsdp=0))
    mesh = make_mesh(jax.devices(), MeshConfig(tensor=4))
    with pytest.raises(UserError, match=r"--mesh.tensor 4 does not divide fusion/layers"):
        parameter_sharding("fusion/layers/0/query/kernel", (6, 6), mesh)


def test_devices_of_a_process_follow_each_other():
    devices = [SimpleNamespace(process_index=number % 2, id=number) for number in range(8)]
    ordered = sorted(devices, key=sharding._process_and_id)
    assert [device.id for device in ordered] == [0, 2, 4, 6, 1, 3, 5, 7]


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
