"""Compile the train and inference steps for GPUs and TPU pods that are not here, and tabulate what comes out.

    make compile-check
    make compile-check ARGS="--only v5p h100 --python-tpu python-that-has-jax-tpu"

Fits or not, memory, operations, collectives, fused calls, copies, and the TPU compiler's own estimate of the
time, from the true optimised programs. The compilers run on any Linux machine, each in an environment of its
own that this makes (`.venv-tpu` 1 GB, `.venv-cuda` 5 GB). A TPU program takes minutes to compile; every row
is written as soon as it is there.

For an H100 nothing is tuned without the device, so Triton's matrix products, which are chosen by measuring,
are left out: what is counted here is counted with cuBLAS and cuDNN.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import ROOT, run_child
from benchmarks.record import circumstances, default_out, table, write_record
from benchmarks.workloads import ACCELERATOR
from clipbert_jax.costs.compiler import (
    COMPILER_OPTIONS,
    environment_folder,
    packages_to_compile,
)
from clipbert_jax.costs.devices import DEVICES, Platform, platform_of
from clipbert_jax.training.sharding import MeshConfig

# Topologies, and videos a device of the retrieval workloads.
TARGETS = {
    "h100:1": 16,
    "h100:8": 16,
    "v5e:2x4": 8,
    "v5e:16x16": 8,
    "v5p:2x2x2": 16,
    "v5p:4x8x8": 16,
    "v6e:2x4": 16,
    "v6e:16x16": 16,
}
ON_ALL = ("retrieval training", "inference")
PODS = ("v5e:16x16", "v5p:4x8x8", "v6e:16x16")
DATA_PARALLEL = MeshConfig()
# Other meshes than data parallel ones, for the first workload.
MESHES = {
    "h100:8": (MeshConfig(fsdp=8), MeshConfig(tensor=2)),
    "v5e:16x16": (MeshConfig(fsdp=16), MeshConfig(tensor=4)),
}


def main(arguments: list[str] | None = None) -> None:
    """Compile all programs that are asked for, print and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", nargs="+", default=[""], help="targets that begin so, such as v5e h100:8")
    parser.add_argument("--workload", nargs="+", help="only these")
    parser.add_argument("--lowering", default="{}", help="fields of kernel_choices.py to change, as JSON")
    parser.add_argument("--python-tpu", help="interpreter of an environment with jax[tpu]")
    parser.add_argument("--python-cuda", help="interpreter of an environment with jax[cuda13]")
    parser.add_argument("--timeout-minutes", type=float, default=30.0, help="for one program")
    parser.add_argument("--out", type=Path, help="file without suffix (default: in benchmarks/results/)")
    options = parser.parse_args(arguments)
    programs = list(_programs(options.only, options.workload))
    if not programs:
        known = f"targets {', '.join(TARGETS)}; workloads {', '.join(w.name for w in ACCELERATOR)}"
        parser.exit(2, f"{parser.prog}: no program is that of --only and --workload; there are {known}\n")
    record: dict[str, Any] = {**circumstances("compile_check", arguments), "programs": []}
    out = options.out or default_out(record, "compiled")
    for target, workload, mesh in programs:
        python = options.python_cuda if platform_of(target) == "gpu" else options.python_tpu
        row = compile_in(python or make_environment(platform_of(target)), target, workload, mesh, options)
        record["programs"].append(row)
        print(_line(row), flush=True)
        write_record(record, markdown(record), out)


def _programs(only: Sequence[str], workloads: Sequence[str] | None) -> Iterator[tuple[str, str, MeshConfig]]:
    for target in TARGETS:
        if not target.startswith(tuple(only)):
            continue
        names = [workload.name for workload in ACCELERATOR] if target == "h100:1" else ON_ALL
        if target in PODS:
            names = ON_ALL[:1]  # inference does not communicate
        for name in names:
            if not workloads or name in workloads:
                meshes = MESHES.get(target, ()) if name == ON_ALL[0] else ()
                yield from ((target, name, mesh) for mesh in (DATA_PARALLEL, *meshes))


def make_environment(platform: Platform) -> str:
    """Return the interpreter of `.venv-tpu` or `.venv-cuda`, which is made first if it is not there."""
    folder = ROOT / environment_folder(platform)
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print(f"making {folder.name}: some minutes", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = packages_to_compile(platform)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        ready.touch()
    return str(python)


def compile_in(
    python: str, target: str, workload: str, mesh: MeshConfig, options: argparse.Namespace
) -> dict[str, Any]:
    """Compile one program in the environment of its compiler and return its row."""
    command = [python, "-m", "benchmarks.compile_one", "--target", target, "--workload", workload]
    command += ["--fsdp", str(mesh.fsdp), "--tensor", str(mesh.tensor), "--lowering", options.lowering]
    if workload in ON_ALL:
        command += ["--batch-size", str(TARGETS[target])]
    command += ["--options", json.dumps(COMPILER_OPTIONS[platform_of(target)])]
    environment = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    seconds = 60 * options.timeout_minutes
    found = run_child(command, timeout_seconds=seconds, environment=environment)
    return {"target": target, "workload": workload, **dataclasses.asdict(mesh), **found}


def markdown(record: dict[str, Any]) -> str:
    """Return the table with what its columns mean."""
    rows = record["programs"]
    parts = [
        f"# Compiled programs ({record['date'][:10]})",
        "`make compile-check`: compiled for devices that were not there, nothing was run. Figures are of one "
        "device; an item is a video, or in pair scoring a text with a clip. "
        "`traffic` is what all kernels read and write; `products / traffic` are the times that "
        "products and traffic alone would take at the rates in `clipbert_jax/costs/devices.py`. `compiler` "
        "is the TPU compiler's own estimate of the time, and the rate that it means; for v5e it gives none. "
        "H100: "
        "matrix products by cuBLAS, as Triton's are chosen by measuring.",
        table(COLUMNS, [_cells(row) for row in rows]),
    ]
    return "\n\n".join(parts) + "\n"


COLUMNS = [
    "devices",
    "mesh",
    "program",
    "batch a device",
    "memory GiB",
    "fits",
    "GFLOP an item",
    "traffic GB an item",
    "products / traffic ms",
    "compiler ms",
    "items/s a device",
    "collectives",
    "fused: bias, ReLU, attention",
    "copies (GB)",
    "compiled in s",
]


def _cells(row: dict[str, Any]) -> list[str]:
    if "problem" in row:
        fits = "no" if "RESOURCE_EXHAUSTED" in row["problem"] else ""
        return [row["target"], _mesh(row), row["workload"], "", "", fits, row["problem"], *[""] * 8]
    device = DEVICES[row["target"].partition(":")[0]]
    assert device.bf16_flops
    assert device.bandwidth
    assert device.memory_bytes
    per_device = row["batch_size"] / row["num_devices"]
    items = row["items_per_call"] / row["num_devices"]
    seconds = row["compiler_seconds"] or 0
    collectives = ", ".join(f"{count} {name}" for name, count in row["collectives"].items())
    is_gpu = platform_of(row["target"]) == "gpu"
    return [
        row["target"],
        _mesh(row),
        row["workload"],
        f"{per_device:g}",
        f"{row['program_bytes'] / 2**30:.1f}",
        "yes" if row["program_bytes"] < 0.95 * device.memory_bytes else "no",
        f"{row['flops'] / items / 1e9:,.1f}",
        f"{row['moved_bytes'] / items / 1e9:,.2f}",
        f"{1e3 * row['flops'] / device.bf16_flops:.0f} / {1e3 * row['moved_bytes'] / device.bandwidth:.0f}",
        f"{1e3 * seconds:.0f}" if seconds > 0 else "",
        f"{items / seconds:.0f}" if seconds > 0 else "",
        collectives or "none",
        f"{row['num_fused_bias']}, {row['num_fused_relu']}, {row['num_fused_attention']}" if is_gpu else "",
        f"{row['copies']} ({row['copied_bytes'] / 1e9:.1f})",
        f"{row['compile_seconds']:.0f}",
    ]


def _mesh(row: dict[str, Any]) -> str:
    """Return what the mesh divides beside the videos."""
    return ", ".join(f"{axis} {row[axis]}" for axis in ("fsdp", "tensor") if row.get(axis, 1) > 1)


def _line(row: dict[str, Any]) -> str:
    return " | ".join(cell for cell in _cells(row) if cell)


if __name__ == "__main__":
    main()
