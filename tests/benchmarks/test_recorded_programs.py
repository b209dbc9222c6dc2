"""What the recorded programs of H100s and TPUs exchange, by mesh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workloads import ACCELERATOR
from clipbert_jax.training.sharding import MeshConfig

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FILES = ("2026-11-25_compiled.json", "2026-11-26_compiled_meshes.json")
PROGRAMS = [program for name in FILES for program in json.loads((RESULTS / name).read_text())["programs"]]
RETRIEVAL = ACCELERATOR[0]
NUM_LAYERS = RETRIEVAL.model.fusion.num_layers
MOST_JOINED = 12
"""Sums that gradients take at most: compilers join arrays, else there would be hundreds."""


def mesh_of(program: dict[str, Any]) -> MeshConfig:
    return MeshConfig(fsdp=program.get("fsdp", 1), tensor=program.get("tensor", 1))


def kind_of(program: dict[str, Any]) -> str:
    mesh = mesh_of(program)
    return "fsdp" if mesh.fsdp > 1 else "tensor" if mesh.tensor > 1 else "data"


def trainings(kind: str) -> list[dict[str, Any]]:
    """Return what was recorded of training on several devices, on a kind of mesh."""
    return [
        program
        for program in PROGRAMS
        if program["workload"] == RETRIEVAL.name and program["num_devices"] > 1 and kind_of(program) == kind
    ]


def by_target(kind: str) -> Any:
    return pytest.mark.parametrize("program", trainings(kind), ids=lambda program: program["target"])


def test_every_kind_of_mesh_is_recorded_for_eight_gpus_and_a_pod():
    for kind in ("data", "fsdp", "tensor"):
        assert {"h100:8", "v5e:16x16"} <= {program["target"] for program in trainings(kind)}


def test_one_device_and_inference_exchange_nothing():
    for program in PROGRAMS:
        if program["num_devices"] == 1 or program["workload"] == "inference":
            assert program["collectives"] == {}, program["target"]


@by_target("data")
def test_data_parallel_sums_the_weight_of_the_loss_and_gradients(program):
    assert set(program["collectives"]) == {"all-reduce"}
    assert 2 <= program["collectives"]["all-reduce"] <= MOST_JOINED


def test_as_many_exchanges_on_a_pod_as_on_eight_chips():
    found: dict[str, set[str]] = {}
    for program in trainings("data"):
        found.setdefault(program["target"].partition(":")[0], set()).add(str(program["collectives"]))
    assert set(found) == {"h100", "v5e", "v5p", "v6e"}
    assert all(len(collectives) == 1 for collectives in found.values())


@by_target("fsdp")
def test_fsdp_gathers_parameters_once_and_sums_gradients(program):
    collectives = program["collectives"]
    assert set(collectives) == {"all-gather", "all-reduce"}
    # Of some hundred divided arrays; the backward pass keeps what the forward pass has gathered.
    assert 1 <= collectives["all-gather"] <= 2 * NUM_LAYERS
    assert 2 <= collectives["all-reduce"] <= MOST_JOINED


@by_target("tensor")
def test_tensor_sums_partial_products_and_gives_videos_to_each_other(program):
    collectives = program["collectives"]
    assert set(collectives) <= {"all-gather", "all-reduce", "reduce-scatter"}
    num_sums = collectives["all-reduce"] + collectives.get("reduce-scatter", 0)
    # Two in a layer in each direction; at most two more, where sums of it are not joined; then gradients.
    assert 4 * NUM_LAYERS < num_sums <= 6 * NUM_LAYERS + MOST_JOINED + 1
    # Texts, their mask, visual tokens, last states; then what XLA would rather gather than sum.
    assert 4 <= collectives["all-gather"] <= 6
