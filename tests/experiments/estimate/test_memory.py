"""The estimated memory against compiled programs, those of CPUs, and the recorded ones of other devices."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from benchmarks.programs import train_setting
from benchmarks.workloads import ACCELERATOR, CPU, DEMO, Workload
from clipbert_jax.costs.devices import Platform, platform_of
from clipbert_jax.costs.segments import Segment, make_segments
from clipbert_jax.costs.sizes import Sizes
from clipbert_jax.training.sharding import MeshConfig
from clipbert_jax.training.train_program import TrainSetting
from experiments.estimate.compile_elsewhere import CompileRequest, compile_elsewhere
from experiments.estimate.memory import count_parameters, train_memory
from experiments.estimate.step_costs import step_flops

RECORDED = pathlib.Path(__file__).parents[3] / "benchmarks" / "results" / "2026-11-25_compiled.json"
RETRIEVAL, _, _, PRETRAINING, _ = ACCELERATOR
TINY = DEMO[1]
GIB = 2**30


# ---- Compiled programs ------------------------------------------------------------------------------------


def check_on_cpu(setting: TrainSetting) -> None:
    """Hold operations and memory against XLA's, to 10 %."""
    # A process of its own: a batch refuses descriptions where arrays are checked.
    compiled = compile_elsewhere(CompileRequest(setting=setting, target="cpu", num_devices=1))
    memory = train_memory(setting, "cpu")
    assert memory.arguments == pytest.approx(compiled["argument_bytes"], rel=1e-4)
    assert memory.program == pytest.approx(compiled["program_bytes"], rel=0.1)
    assert step_flops(setting).total == pytest.approx(compiled["compiler_flops"], rel=0.1)


def test_tiny_is_as_xla_compiles_it():
    check_on_cpu(train_setting(TINY))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2])
def test_base_is_as_xla_compiles_it(batch_size: int):
    check_on_cpu(train_setting(dataclasses.replace(CPU[1], batch_size=batch_size)))


@pytest.mark.slow
def test_base_in_bfloat16_with_more_clips_is_as_xla_compiles_it():
    check_on_cpu(train_setting(dataclasses.replace(RETRIEVAL, batch_size=2, size=224)))


def recorded() -> list[dict[str, Any]]:
    programs = json.loads(RECORDED.read_text())["programs"]
    is_training = {workload.name: workload.kind == "train" for workload in ACCELERATOR}
    return [program for program in programs if is_training[program["workload"]]]


@pytest.mark.parametrize(
    "program", recorded(), ids=lambda program: f"{program['target']} {program['workload']}"
)
def test_memory_is_about_what_compilers_of_accelerators_found(program: dict[str, Any]):
    workload = next(workload for workload in ACCELERATOR if workload.name == program["workload"])
    setting = train_setting(dataclasses.replace(workload, batch_size=program["batch_size"]))
    memory = train_memory(setting, platform_of(program["target"]), program["num_devices"])
    # TPUs pad small arrays; XLA keeps a fourth inner array of some layers, and in some programs copies.
    assert memory.arguments == pytest.approx(program["argument_bytes"], rel=0.015)
    assert memory.program == pytest.approx(program["program_bytes"], rel=0.08)


# ---- Levers -----------------------------------------------------------------------------------------------


def memory_with(
    platform: Platform = "gpu", num_devices: int = 1, *, mesh: MeshConfig | None = None, **train: Any
):
    setting = train_setting(RETRIEVAL, **train)
    return train_memory(dataclasses.replace(setting, mesh=mesh or MeshConfig()), platform, num_devices)


def test_state_is_parameters_and_two_moments():
    memory = memory_with()
    num_parameters, num_trained = count_parameters(train_setting(RETRIEVAL))
    assert memory.parameters == 4 * num_parameters
    assert memory.optimizer == 2 * memory.gradients == 2 * 4 * num_trained
    assert memory.batch == 16 * (8 * 2 * 448 * 448 * 3 + 2 * 20 * (4 + 1) + 2 * (1 + 4) + 1)
    assert memory.peak == memory.arguments + memory.fullest.total + 3 * memory.batch


def test_frozen_parts_have_no_moments_and_averages_are_parameters():
    frozen = memory_with(frozen_parts=("text_encoder/", "fusion/"))
    assert frozen.parameters == memory_with().parameters
    assert frozen.optimizer < 0.3 * memory_with().optimizer
    averaged = memory_with(ema_decay=0.999)
    assert averaged.parameters - memory_with().parameters == averaged.gradients


def test_devices_share_the_batch_and_fsdp_the_state():
    memory = memory_with(num_devices=4)
    assert memory.activations < 0.3 * memory_with().activations
    assert memory.batch == memory_with().batch // 4
    shared = memory_with(num_devices=4, mesh=MeshConfig(fsdp=4))
    assert shared.optimizer == pytest.approx(memory.optimizer / 4, rel=0.005)
    assert shared.activations == memory.activations


def test_levers_save_memory_but_not_on_a_cpu():
    plain, on_cpu = memory_with(), memory_with("cpu")
    parts = memory_with(num_accumulation_steps=4)
    assert parts.activations < 0.3 * plain.activations
    assert parts.fullest.gradients > plain.fullest.gradients + parts.gradients  # the sum so far
    for levers in ({"remat": "dots"}, {"remat": "full"}, {"clips_per_pass": 2}):
        assert memory_with(**levers).peak < 0.95 * plain.peak
    for levers in ({"num_accumulation_steps": 4}, {"remat": "full"}, {"clips_per_pass": 2}):
        assert memory_with("cpu", **levers).fullest == on_cpu.fullest


def test_small_batches_are_fullest_at_the_update():
    workload = dataclasses.replace(CPU[1], batch_size=1)
    memory = train_memory(train_setting(workload), "cpu")
    assert memory.fullest.name == "update"
    assert memory.fullest.total == 2 * memory.gradients


# ---- Segments by hand -------------------------------------------------------------------------------------

SMALL = dataclasses.replace(
    RETRIEVAL, batch_size=1, num_clips=1, num_frames=1, size=64, num_texts=1, text_length=4
)
"""A grid of one cell, so that one sequence has 5 tokens of width 768."""


def segments(workload: Workload, platform: Platform = "gpu", **options: Any) -> dict[str, Segment]:
    sizes = Sizes(workload.model, train_setting(workload).shape)
    made = make_segments(sizes, workload.task.head, platform, **options)
    return {segment.name: segment for segment in made}


def test_a_fusion_layer_keeps_its_operands_and_decisions():
    hidden, inner, squares = 5 * 768, 5 * 3072, 12 * 5 * 5
    kept = segments(SMALL)["fusion.3"].kept
    # bfloat16: 8 hidden and 3 inner arrays; float32 and bfloat16 of the attention; three dropouts of a byte.
    assert kept == 2 * (8 * hidden + 3 * inner) + (4 + 2 + 1) * squares + 2 * hidden
    assert segments(SMALL, remat="full")["fusion.3"].kept == 2 * hidden
    assert segments(SMALL, remat="dots")["fusion.3"].kept == 2 * (4 + 3) * hidden + 2 * inner


def test_a_residual_block_keeps_what_its_relus_give():
    # res4 of 64 pixels: 4 x 4 places of 256, 256 and 1024 features.
    middle, y = 16 * 256, 16 * 1024
    kept = {name: segment.kept for name, segment in segments(SMALL).items()}
    assert kept["res4.1"] == 2 * (2 * middle + y)
    assert kept["res4.0"] == kept["res4.1"] + 2 * 16 * 512  # the places of the input that it reads
    assert segments(SMALL, remat="full")["res4.1"].kept == 2 * y
    on_cpu = segments(SMALL, "cpu")["res4.1"].kept
    assert on_cpu == 2 * (2 * middle + y) + 4 * (2 * middle + y)  # before the ReLUs, and as operands


def test_frozen_stages_keep_nothing_but_run():
    made = segments(SMALL)
    assert [name for name, segment in made.items() if not segment.kept] == [
        "stem",
        "res2.0",
        "res2.1",
        "res2.2",
    ]
    # Of 16 x 16 places: 64 features come in; 64, 64, 256 go out of the convolutions, 256 of the shortcut.
    assert made["res2.0"].forward == 2 * 256 * (64 + 64 + 64 + 256 + 256)
    frozen = dataclasses.replace(RETRIEVAL.model.pixel_encoder, num_frozen_stages=5)
    model = dataclasses.replace(RETRIEVAL.model, pixel_encoder=frozen)
    memory = train_memory(train_setting(dataclasses.replace(RETRIEVAL, model=model, text_length=2)), "gpu")
    assert memory.activations < 0.5 * train_memory(train_setting(RETRIEVAL), "gpu").activations


def test_a_vocabulary_of_logits_is_kept():
    num_logits = 32 * 2 * 30 * 30522
    assert segments(PRETRAINING)["head"].kept > 4 * num_logits
