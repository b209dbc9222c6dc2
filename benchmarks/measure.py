"""Time one workload on the devices that are here; prints one line of JSON. `bench.py` calls this.

    python -m benchmarks.measure --set accelerator --workload "retrieval training" --steps 30

A process of its own for each workload, as each for the PyTorch peer: memory that one framework holds is not
missing to the other, and what breaks, breaks alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.programs import (
    change,
    inference,
    make_model,
    pair_scoring,
    trace_workload,
    training,
    visual_tokens_shape,
)
from benchmarks.stages import time_stages
from benchmarks.workloads import SETS, Workload, find_workload, synthetic_batch
from clipbert_jax.costs.devices import known_device, measure_device
from clipbert_jax.costs.kernels import make_kernels
from clipbert_jax.costs.program import count_flops
from clipbert_jax.costs.step_cost import step_floor
from clipbert_jax.models.kernel_choices import KernelChoices, default_kernel_choices
from clipbert_jax.models.model_def import split_model
from clipbert_jax.training.sharding import make_mesh, put_batch, replicated


def main() -> None:
    """Measure what the options say, print the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--set", required=True, choices=SETS, dest="set_name")
    parser.add_argument("--workload", required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--batch-size", type=int, help="over all devices")
    parser.add_argument("--lowering", type=json.loads, default={}, help="fields to change, as JSON")
    parser.add_argument("--stages", action="store_true", help="time the parts of the model instead")
    options = parser.parse_args()
    workload = find_workload(options.set_name, options.workload, options.batch_size)
    kernels = change(default_kernel_choices(), options.lowering)
    print(json.dumps(measure(workload, kernels, options.steps, options.warmup, stages=options.stages)))


def measure(
    workload: Workload, kernels: KernelChoices, num_steps: int, num_warmup_steps: int, *, stages: bool
) -> dict[str, Any]:
    """Return times, rate, memory and share of the roofline of one workload, or the times of its parts."""
    result: dict[str, Any] = {
        "framework": f"jax {jax.__version__}",
        "workload": workload.name,
        "batch_size": workload.batch_size,
        "unit": workload.unit,
        "lowering": dataclasses.asdict(kernels),
    }
    try:
        if stages:
            return result | {"stages": time_stages(workload, kernels)}
        call = _prepare(workload, kernels)
        start = time.perf_counter()
        first = jax.block_until_ready(call())
        result |= {"first_call_seconds": time.perf_counter() - start, "loss": _loss(first)}
        result |= _times(call, num_steps, num_warmup_steps)
        result |= {
            "items_per_second": workload.items_per_call / result["median_seconds"],
            "peak_bytes": _peak_bytes(),
        }
        result |= _against_roofline(workload, result["median_seconds"])
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        result["out_of_memory"] = True
    return result


def _prepare(workload: Workload, kernels: KernelChoices) -> Callable[[], Any]:
    """Return a function without arguments that dispatches one step or call."""
    mesh = make_mesh()
    batch = put_batch(synthetic_batch(workload), mesh)
    if workload.kind == "train":
        make_state, step = training(workload, mesh, kernels)
        state = make_state()

        def train() -> Any:
            nonlocal state  # the step eats the state that it is given
            state, metrics = step(state, batch)
            return metrics

        return train
    model_def, params, frozen = split_model(make_model(workload, kernels))
    arrays = jax.device_put({**params, **frozen}, replicated(mesh))
    if workload.kind == "inference":
        infer = inference(model_def, workload)
        return lambda: infer(arrays, batch.frames, batch.text_ids, batch.text_mask)
    score = pair_scoring(model_def, workload)
    tokens = np.random.default_rng(0).normal(size=visual_tokens_shape(workload))
    tokens = jax.device_put(tokens.astype(workload.model.compute_dtype), replicated(mesh))
    return lambda: score(arrays, tokens, batch.text_ids, batch.text_mask)


def _loss(first: Any) -> float | None:
    return float(first["loss"]) if isinstance(first, dict) else None


def _times(call: Callable[[], Any], num_steps: int, num_warmup_steps: int) -> dict[str, float]:
    """Time single steps, each waited for, and how long the call itself keeps the host."""
    steps, dispatches = [], []
    for _ in range(num_warmup_steps + num_steps):
        start = time.perf_counter()
        result = call()
        dispatches.append(time.perf_counter() - start)
        jax.block_until_ready(result)
        steps.append(time.perf_counter() - start)
    p10, median, p90 = (float(x) for x in np.percentile(steps[num_warmup_steps:], (10, 50, 90)))
    return {
        "num_steps": num_steps,
        "median_seconds": median,
        "p10_seconds": p10,
        "p90_seconds": p90,
        "dispatch_seconds": float(np.median(dispatches[num_warmup_steps:])),
    }


def _peak_bytes() -> int | None:
    """Return the most memory used so far: of the first device, if it says so, or on a CPU of this process."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def _against_roofline(workload: Workload, seconds: float) -> dict[str, Any]:
    """Return the floor of all devices together and what share of their peak is used."""
    device = known_device(jax.devices()[0].device_kind) or measure_device()
    program = trace_workload(workload)
    flops = count_flops(program)
    peak = device.bf16_flops if workload.model.compute_dtype == "bfloat16" else device.fp32_flops
    num_devices = jax.device_count()
    floor = step_floor(make_kernels(program), device).total / num_devices
    return {
        "device_figures": device.source,
        "flops": flops,
        "flops_share": flops / seconds / (num_devices * peak) if peak else None,
        "floor_seconds": floor,
        "floor_share": floor / seconds,
    }


if __name__ == "__main__":
    main()
