"""Compile one program for an accelerator that is not here, and print what the compiler made of it.

    JAX_PLATFORMS=cpu python -m benchmarks.compile_one --target v5e:4x4 --workload "retrieval training"

The compilers of TPUs and NVIDIA GPUs run without the hardware, each in an environment of its own (see
`compile_check.py`, which calls this for every program). Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks.compiled_program import summarise
from benchmarks.programs import change, costs_of, make_program
from benchmarks.workloads import ACCELERATOR, Workload
from clipbert_jax.models.lowering import Lowering, default_lowering
from clipbert_jax.training.sharding import make_mesh

H100 = Path(__file__).with_name("h100.txtpb")


def main() -> None:
    """Compile what the options say, print the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", required=True, help="v5e:4x4, v5p:2x2x1, h100:8, ...")
    parser.add_argument("--workload", default=ACCELERATOR[0].name, choices=[w.name for w in ACCELERATOR])
    parser.add_argument("--lowering", type=json.loads, default={}, help="fields to change, as JSON")
    parser.add_argument("--options", type=json.loads, default={}, help="of the compiler, as JSON")
    parser.add_argument("--batch-size", type=int, help="per device")
    parser.add_argument("--num-devices", type=int, help="use only so many of them")
    parser.add_argument("--text", type=Path, help="write the compiled program here")
    options = parser.parse_args()
    mesh = make_mesh(target_devices(options.target)[: options.num_devices])
    workload = next(w for w in ACCELERATOR if w.name == options.workload)
    workload = dataclasses.replace(
        workload, batch_size=(options.batch_size or workload.batch_size) * mesh.size
    )
    platform = "gpu" if options.target.startswith("h") else "tpu"
    lowering = change(default_lowering(platform), options.lowering)
    record = compile_workload(workload, mesh, lowering, options.options, options.text)
    print(json.dumps({"target": options.target, "workload": workload.name, **record}))


def target_devices(target: str) -> list[Any]:
    """Return the devices of a topology: `v5e:4x4`, or `h100:8` for so many GPUs of one machine."""
    kind, _, shape = target.partition(":")
    if kind == "h100":
        topology = topologies.get_topology_desc(
            "h100", platform="cuda", target_config=H100.read_text(), topology=f"1x1x{shape}"
        )
    else:
        topology = topologies.get_topology_desc(topology_name=target, platform="tpu")
    return list(np.ravel(topology.devices))


def compile_workload(
    workload: Workload, mesh: Mesh, lowering: Lowering, options: dict[str, Any], text: Path | None = None
) -> dict[str, Any]:
    """Compile a workload's program for a mesh and describe what came out, for one device."""
    lowered = make_program(workload, mesh, lowering).lower()
    start = time.perf_counter()
    compiled = lowered.compile(compiler_options=options or None)
    seconds = time.perf_counter() - start
    program, memory = compiled.as_text(), compiled.memory_analysis()
    assert program is not None
    assert memory is not None
    if text:
        text.write_text(program)
    cost = compiled.cost_analysis() or {}
    return {
        "num_devices": mesh.size,
        "batch_size": workload.batch_size,
        "items_per_call": workload.items_per_call,
        "compile_seconds": seconds,
        "flops": costs_of(workload).flops / mesh.size,
        "compiler_flops": cost.get("flops"),
        "compiler_seconds": cost.get("optimal_seconds"),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "program_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        **dataclasses.asdict(summarise(program)),
        "lowering": dataclasses.asdict(lowering),
        "compiler_options": options,
    }


if __name__ == "__main__":
    main()
