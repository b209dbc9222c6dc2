"""Compile one program for an accelerator that is not here, and print what the compiler made of it.

    JAX_PLATFORMS=cpu python -m benchmarks.compile_one --target v5e:4x4 --workload "retrieval training"

The compilers of TPUs and NVIDIA GPUs run without the hardware, each in an environment of its own (see
`compile_check.py`, which calls this for every program). Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from benchmarks.programs import change, make_program, trace_workload
from benchmarks.workloads import ACCELERATOR, Workload
from clipbert_jax.costs.compiler import compile_program, target_devices
from clipbert_jax.costs.devices import platform_of
from clipbert_jax.costs.program import count_flops
from clipbert_jax.models.kernel_choices import KernelChoices, default_kernel_choices
from clipbert_jax.training.sharding import FSDP, TENSOR, MeshConfig, make_mesh


def main() -> None:
    """Compile what the options say, print the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", required=True, help="v5e:4x4, v5p:2x2x1, h100:8, ...")
    parser.add_argument("--workload", default=ACCELERATOR[0].name, choices=[w.name for w in ACCELERATOR])
    parser.add_argument("--lowering", type=json.loads, default={}, help="fields to change, as JSON")
    parser.add_argument("--options", type=json.loads, default={}, help="of the compiler, as JSON")
    parser.add_argument("--batch-size", type=int, help="per device")
    parser.add_argument("--num-devices", type=int, help="use only so many of them")
    parser.add_argument("--fsdp", type=int, default=1, help="axis of the mesh; see sharding.py")
    parser.add_argument("--tensor", type=int, default=1, help="axis of the mesh")
    parser.add_argument("--text", type=Path, help="write the compiled program here")
    options = parser.parse_args()
    axes = MeshConfig(fsdp=options.fsdp, tensor=options.tensor)
    mesh = make_mesh(target_devices(options.target)[: options.num_devices], axes)
    workload = next(w for w in ACCELERATOR if w.name == options.workload)
    workload = dataclasses.replace(
        workload, batch_size=(options.batch_size or workload.batch_size) * mesh.size
    )
    kernels = change(default_kernel_choices(platform_of(options.target)), options.lowering)
    record = compile_workload(workload, mesh, kernels, options.options, options.text)
    print(json.dumps({"target": options.target, "workload": workload.name, **record}))


def compile_workload(
    workload: Workload, mesh: Mesh, kernels: KernelChoices, options: dict[str, Any], text: Path | None = None
) -> dict[str, Any]:
    """Compile a workload's program for a mesh and describe what came out, for one device."""
    return {
        "num_devices": mesh.size,
        "fsdp": mesh.shape[FSDP],
        "tensor": mesh.shape[TENSOR],
        "batch_size": workload.batch_size,
        "items_per_call": workload.items_per_call,
        "flops": count_flops(trace_workload(workload)) / mesh.size,
        **compile_program(make_program(workload, mesh, kernels).lower(), options, text=text),
        "lowering": dataclasses.asdict(kernels),
        "compiler_options": options,
    }


if __name__ == "__main__":
    main()
