"""Compiles programs for devices that are not here, and describes what the compiler made of them.

The compilers of TPUs and NVIDIA GPUs run on any Linux machine without the hardware, each in an environment of
its own. `clipbert estimate --compile` and `make compile-check` call this; benchmarks may not import
`experiments`, so it lives in the library.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipbert_jax.costs.compiled_program import summarise
from clipbert_jax.costs.devices import GPUS, Platform
from clipbert_jax.errors import UserError

PLUGINS = {"gpu": "jax_cuda13_plugin", "tpu": "libtpu"}
"""Module that an environment must have to compile for a platform."""
REQUIREMENTS = {"gpu": "jax[cuda13]", "tpu": "jax[tpu]"}
COMPILER_OPTIONS: dict[Platform, dict[str, Any]] = {
    # Triton's matrix products are chosen by measuring, for which the device would have to be there.
    "gpu": {"xla_gpu_enable_triton_gemm": False},
    "tpu": {},
    "cpu": {},
}


def num_devices_of(target: str) -> int:
    """Return the number of devices of a target.

    Raises:
      UserError: the target is not a kind and a shape.
    """
    _, _, shape = target.partition(":")
    sides = shape.split("x")
    if not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(
            f"{target!r} is not a topology: write a device and a shape, such as v5e:16x16 or h100:8"
        )
    return math.prod(map(int, sides))


def target_devices(target: str) -> list[Any]:
    """Return the devices of a topology: `v5e:4x4`, or `h100:8` for so many GPUs of one machine."""
    from jax.experimental import topologies

    kind, _, shape = target.partition(":")
    if kind in GPUS:
        description = Path(__file__).with_name(f"{kind}.txtpb").read_text()
        topology = topologies.get_topology_desc(
            kind, platform="cuda", target_config=description, topology=f"1x1x{shape}"
        )
    else:
        topology = topologies.get_topology_desc(topology_name=target, platform="tpu")
    return list(np.ravel(topology.devices))


def compile_program(
    lowered: jax.stages.Lowered, compiler_options: Mapping[str, Any], *, text: Path | None = None
) -> dict[str, Any]:
    """Compile a program and describe what came out, for one device, in bytes and counts.

    Args:
      lowered: program for devices that need not be here.
      compiler_options: XLA options by name.
      text: file to write the compiled program to.
    """
    start = time.perf_counter()
    compiled = lowered.compile(compiler_options=dict(compiler_options) or None)
    seconds = time.perf_counter() - start
    code, memory, cost = compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis() or {}
    assert code is not None
    assert memory is not None
    if text:
        text.write_text(code)
    return {
        "compile_seconds": seconds,
        "compiler_flops": cost.get("flops"),
        "compiler_seconds": cost.get("optimal_seconds"),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "program_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        **dataclasses.asdict(summarise(code)),
    }


def environment_folder(platform: Platform) -> str:
    """Return the folder name of a compiler's environment."""
    return ".venv-cuda" if platform == "gpu" else f".venv-{platform}"


def packages_to_compile(platform: Platform) -> list[str]:
    """Return the packages that a compiler's environment needs, in the versions installed here."""
    versions = [f"{name}=={version(name)}" for name in ("flax", "optax", "jaxtyping", "numpy", "cattrs")]
    return [f"{REQUIREMENTS[platform]}=={version('jax')}", *versions]
