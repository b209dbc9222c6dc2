"""The numbers of an estimate, as JSON values; `lines.py` prints them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from clipbert_jax.costs.devices import Device, Platform, platform_of
from clipbert_jax.costs.step_cost import StepCost, step_bytes, step_flops
from clipbert_jax.training.sharding import MeshConfig
from clipbert_jax.training.train_program import TrainSetting
from experiments.estimate.compile_elsewhere import CompileRequest, compile_elsewhere
from experiments.estimate.plan import Plan
from experiments.estimate.step_costs import (
    USABLE_SHARE,
    DeviceStep,
    accumulation_that_fits,
    count_parameters,
    largest_part,
)

EXPECTED_SHARE = 0.65
"""Expected fraction of the rate at the floor: usual for such programs, not measured."""

_DECODE_MS, _DECODED_FRAMES = 55.0, 16
"""Core-milliseconds for a video of 8 clips of 2 frames: 448 pixels from H.264 of 320x240 (docs/speed.md)."""


def estimate(
    plan: Plan, device: Device, platform: Platform, num_devices: int, decode_ms: float | None
) -> dict[str, Any]:
    """Return what training takes on so many devices of a kind.

    Args:
      plan: the training.
      device: its rates and memory, all known.
      platform: whose compiler.
      num_devices: in all.
      decode_ms: core-milliseconds of a video; None for those of the frames that a video gives.
    """
    setting, shape = plan.setting, plan.setting.shape
    num_parameters, num_trained = count_parameters(setting, platform)
    step = DeviceStep(setting, platform, num_devices)
    time = _time(plan, step, device)
    if decode_ms is None:
        decode_ms = _DECODE_MS * shape.num_clips * shape.num_frames / _DECODED_FRAMES
    return {
        "num_devices": num_devices,
        "device": dataclasses.asdict(device),
        "compute_dtype": setting.model.compute_dtype,
        "shape": dataclasses.asdict(shape),
        "num_accumulation_steps": setting.train.num_accumulation_steps,
        "videos_at_once": _videos_at_once(setting, num_devices),
        "parameters": {"total": num_parameters, "trained": num_trained},
        "flops_per_video": _flops_per_video(step),
        "memory": _memory(step, device),
        "time": time,
        "decoding": {
            "core_ms_per_video": decode_ms,
            "cores": math.ceil(time["videos_per_second"] * decode_ms / 1e3),
        },
        "assumptions": list(plan.assumptions),
    }


def _videos_at_once(setting: TrainSetting, num_devices: int) -> int:
    return setting.shape.num_videos // (num_devices * setting.train.num_accumulation_steps)


def _flops_per_video(step: DeviceStep) -> dict[str, float]:
    num_videos = step.setting.shape.num_videos // step.num_devices
    flops = _by_purpose(step_flops(step.program))
    return {purpose: number // num_videos for purpose, number in flops.items()}


def _by_purpose(cost: StepCost) -> dict[str, float]:
    return {**dataclasses.asdict(cost), "total": cost.total}


def _time(plan: Plan, step: DeviceStep, device: Device) -> dict[str, Any]:
    setting, num_devices, floor = plan.setting, step.num_devices, step.floor(device)
    videos_of_device = setting.shape.num_videos // num_devices
    rate = EXPECTED_SHARE * videos_of_device / floor.total
    return {
        "floor_seconds_of_step": _by_purpose(floor),
        "floor_ms_per_video": 1e3 * floor.total / videos_of_device,
        "expected_share": EXPECTED_SHARE,
        "videos_per_second_per_device": rate,
        "videos_per_second": rate * num_devices,
        "num_steps": plan.num_steps,
        "hours": plan.num_steps and plan.num_steps * floor.total / EXPECTED_SHARE / 3600,
    }


def _memory(step: DeviceStep, device: Device) -> dict[str, Any]:
    assert device.memory_bytes is not None
    memory = step.memory()
    usable = USABLE_SHARE[step.platform] * device.memory_bytes
    return {
        **dataclasses.asdict(memory),
        "program": memory.program,
        "peak": memory.peak,
        "usable": usable,
        "usable_share": USABLE_SHARE[step.platform],
        "fits": memory.peak <= usable,
        "most_videos_at_once": largest_part(step.setting, device, step.platform, step.num_devices),
        "accumulation_that_fits": accumulation_that_fits(
            step.setting, device, step.platform, step.num_devices
        ),
    }


# ---- Compilers --------------------------------------------------------------------------------------------


def check_on_cpu(setting: TrainSetting, num_videos: int) -> dict[str, Any]:
    """Compile the step for this machine's CPU; return XLA's counts beside the estimate's.

    Without parts, passes and rematerialisation, which XLA undoes on a CPU. Nothing is run, so that the videos
    need no memory.

    Raises:
      UserError: it does not compile.
    """
    train = dataclasses.replace(setting.train, num_accumulation_steps=1, remat="none", clips_per_pass=0)
    plain = dataclasses.replace(setting, train=train, mesh=MeshConfig()).with_batch_size(num_videos)
    compiled = compile_elsewhere(
        CompileRequest(setting=plain, target="cpu", num_devices=1, has_forward_pass=True)
    )
    step = DeviceStep(plain, "cpu")
    flops, memory = step_flops(step.program), step.memory().program
    return {
        "num_videos": num_videos,
        "forward_flops": _pair(flops.forward, compiled["compiler_forward_flops"]),
        "flops": _pair(flops.total, compiled["compiler_flops"]),
        "memory": _pair(memory, compiled["program_bytes"]),
        "compile_seconds": compiled["compile_seconds"],
    }


def compare_with_compiler(
    request: CompileRequest, device: Device, *, python: str, timeout_seconds: float
) -> dict[str, Any]:
    """Compile for a device; return what its compiler says of one of them beside the estimate.

    Raises:
      UserError: the environment of `python` has no such compiler, or the compiler refuses the program.
    """
    compiled = compile_elsewhere(request, python, timeout_seconds=timeout_seconds)
    setting, num_devices = request.setting, compiled["num_devices"]
    step = DeviceStep(setting, platform_of(request.target), num_devices)
    memory, flops = step.memory(), step_flops(step.program)
    expected = compiled["compiler_seconds"]  # which is negative where a compiler can't tell
    assert device.bandwidth is not None
    return {
        "target": request.target,
        "num_devices": num_devices,
        "flops": _pair(flops.total, compiled["compiler_flops"]),
        "arguments": _pair(memory.arguments, compiled["argument_bytes"]),
        "temporary": _pair(memory.temporary, compiled["temporary_bytes"]),
        "program": _pair(memory.program, compiled["program_bytes"]),
        "traffic": _pair(step_bytes(step.kernels), compiled["moved_bytes"]),
        "seconds": _pair(step.floor(device).total, expected if (expected or 0) > 0 else None),
        "traffic_seconds": compiled["moved_bytes"] / device.bandwidth,
        "collectives": compiled["collectives"],
        "compile_seconds": compiled["compile_seconds"],
    }


def _pair(estimated: float, compiled: float | None) -> dict[str, float | None]:
    return {"estimated": estimated, "compiled": compiled}
