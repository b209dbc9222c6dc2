"""The estimated step against compiled programs: of this CPU, and the recorded ones of H100s and TPUs."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from benchmarks.programs import train_setting
from benchmarks.workloads import ACCELERATOR, CPU, DEMO
from clipbert_jax.costs.devices import DEVICES, platform_of
from clipbert_jax.costs.step_cost import step_flops
from clipbert_jax.training.sharding import MeshConfig
from clipbert_jax.training.train_program import TrainSetting
from experiments.estimate.compile_elsewhere import CompileRequest, compile_elsewhere
from experiments.estimate.step_costs import (
    DeviceStep,
    accumulation_that_fits,
    count_parameters,
    fits,
    largest_part,
)

RESULTS = pathlib.Path(__file__).parents[3] / "benchmarks" / "results"
RETRIEVAL = ACCELERATOR[0]
H100, V5E = DEVICES["h100"], DEVICES["v5e"]


# ---- Compiled programs ------------------------------------------------------------------------------------


def check_on_cpu(setting: TrainSetting) -> None:
    """Hold operations and memory against XLA's, to 10 %."""
    compiled = compile_elsewhere(CompileRequest(setting=setting, target="cpu", num_devices=1))
    step = DeviceStep(setting, "cpu")
    memory = step.memory()
    assert memory.arguments == pytest.approx(compiled["argument_bytes"], rel=1e-4)
    assert memory.program == pytest.approx(compiled["program_bytes"], rel=0.1)
    assert step_flops(step.program).total == pytest.approx(compiled["compiler_flops"], rel=0.1)


def test_tiny_is_as_xla_compiles_it():
    check_on_cpu(train_setting(DEMO[1]))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2])
def test_base_is_as_xla_compiles_it(batch_size: int):
    check_on_cpu(train_setting(dataclasses.replace(CPU[1], batch_size=batch_size)))


@pytest.mark.slow
def test_base_in_bfloat16_with_more_clips_is_as_xla_compiles_it():
    check_on_cpu(train_setting(dataclasses.replace(RETRIEVAL, batch_size=2, size=224)))


def recorded() -> list[dict[str, Any]]:
    files = ("2026-11-25_compiled.json", "2026-11-26_compiled_meshes.json")
    programs = [program for file in files for program in json.loads((RESULTS / file).read_text())["programs"]]
    is_training = {workload.name: workload.kind == "train" for workload in ACCELERATOR}
    return [program for program in programs if is_training[program["workload"]]]


def described(program: dict[str, Any]) -> str:
    return f"{program['target']} {program['workload']} {program.get('fsdp', 1)} {program.get('tensor', 1)}"


@pytest.mark.parametrize("program", recorded(), ids=described)
def test_steps_are_about_what_compilers_of_accelerators_found(program: dict[str, Any]):
    workload = next(workload for workload in ACCELERATOR if workload.name == program["workload"])
    setting = train_setting(dataclasses.replace(workload, batch_size=program["batch_size"]))
    mesh = MeshConfig(fsdp=program.get("fsdp", 1), tensor=program.get("tensor", 1))
    setting = dataclasses.replace(setting, mesh=mesh)
    step = DeviceStep(setting, platform_of(program["target"]), program["num_devices"])
    memory = step.memory()
    # TPUs pad small arrays, which shows the more the more the others are divided.
    assert memory.arguments == pytest.approx(program["argument_bytes"], rel=0.07)
    assert memory.program == pytest.approx(program["program_bytes"], rel=0.09)
    assert step_flops(step.program).total == program["flops"]


# ---- Levers -----------------------------------------------------------------------------------------------


def step_with(num_devices: int = 1, *, mesh: MeshConfig | None = None, **train: Any) -> DeviceStep:
    setting = train_setting(RETRIEVAL, **train)
    return DeviceStep(dataclasses.replace(setting, mesh=mesh or MeshConfig()), "gpu", num_devices)


def test_state_is_parameters_and_two_moments():
    memory = step_with().memory()
    num_parameters, num_trained = count_parameters(train_setting(RETRIEVAL), "gpu")
    assert memory.parameters == 4 * num_parameters
    assert memory.gradients == 4 * num_trained
    assert memory.optimizer == pytest.approx(2 * memory.gradients, rel=1e-6)  # and counts of steps
    assert memory.batch == 16 * (8 * 2 * 448 * 448 * 3 + 2 * 20 * (4 + 1) + 2 * (1 + 4) + 1)
    assert memory.peak == memory.arguments + memory.temporary + 3 * memory.batch


def test_devices_share_the_batch_and_fsdp_the_state():
    memory, alone = step_with(num_devices=4).memory(), step_with().memory()
    assert memory.activations < 0.3 * alone.activations
    assert memory.batch == alone.batch // 4
    shared = step_with(4, mesh=MeshConfig(fsdp=4)).memory()
    assert shared.optimizer == pytest.approx(memory.optimizer / 4, rel=0.005)
    assert shared.activations == memory.activations


@pytest.mark.slow
@pytest.mark.parametrize("lever", [{"remat": "full"}, {"remat": "dots"}, {"clips_per_pass": 2}], ids=str)
def test_levers_save_memory_for_operations(lever: dict[str, Any]):
    plain, step = step_with(), step_with(**lever)
    assert step.memory().peak < 0.95 * plain.memory().peak
    assert step_flops(step.program).recomputed > 0
    assert step.floor(H100).total > plain.floor(H100).total


def test_the_batch_that_fits():
    setting = train_setting(RETRIEVAL)
    assert fits(setting, H100, "gpu")
    assert largest_part(setting, H100, "gpu") == 32
    assert accumulation_that_fits(setting, H100, "gpu") == 1
    small = dataclasses.replace(H100, memory_bytes=16 * 10**9)
    assert accumulation_that_fits(setting, small, "gpu") == 4
    assert largest_part(setting, dataclasses.replace(H100, memory_bytes=10**9), "gpu") == 0
    assert accumulation_that_fits(setting, dataclasses.replace(H100, memory_bytes=10**9), "gpu") is None
