"""Compile the train step for devices that are not here, and describe what the compiler made of it.

    compile_elsewhere(CompileRequest(setting=setting, target="v5e:16x16"), python=".venv-tpu/bin/python")

The compilers of TPUs and NVIDIA GPUs run on any Linux machine, without the hardware; nothing is run by them.
Each needs an environment of its own (`ENVIRONMENTS`), and so a process of its own, which this module also is:

    python -m clipbert_jax.costs.compile_for result.json < request.pickle
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clipbert_jax.costs.compiled_program import summarise
from clipbert_jax.costs.segments import Platform
from clipbert_jax.costs.train_program import Program, TrainSetting, forward_program, train_program
from clipbert_jax.errors import UserError
from clipbert_jax.models.lowering import default_lowering

GPUS = ("h100", "h200", "a100")
PLUGINS = {"gpu": "jax_cuda13_plugin", "tpu": "libtpu"}
"""The module that an environment must have."""
REQUIREMENTS = {"gpu": "jax[cuda13]", "tpu": "jax[tpu]"}
COMPILER_OPTIONS: dict[Platform, dict[str, Any]] = {
    # Triton's matrix products are chosen by measuring, for which the device would have to be there.
    "gpu": {"xla_gpu_enable_triton_gemm": False},
    "tpu": {},
    "cpu": {},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileRequest:
    """What is to be compiled, and for what."""

    setting: TrainSetting
    target: str
    """`v5e:16x16`, `h100:8`: a kind of device and how many there are; `cpu` for this machine's."""
    num_devices: int | None = None
    """Use only the first of them."""
    has_forward_pass: bool = False
    """Also compile the forward pass alone, to count its operations."""


def platform_of(target: str) -> Platform:
    """Return the platform of a target, or of a kind of device."""
    kind = target.partition(":")[0]
    return "cpu" if kind == "cpu" else "gpu" if kind in GPUS else "tpu"


def num_devices_of(target: str) -> int:
    """Return how many devices a target has.

    Raises:
      UserError: it is not written as a kind and a shape.
    """
    _, _, shape = target.partition(":")
    sides = shape.split("x")
    if not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(
            f"{target!r} is no topology: write a device and a shape, such as v5e:16x16, v5p:4x8x8 or h100:8"
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
    program: Program, compiler_options: Mapping[str, Any], *, text: Path | None = None
) -> dict[str, Any]:
    """Compile a program and describe what came out, for one device, in bytes and counts.

    Args:
      program: for devices that need not be there.
      compiler_options: of XLA, by name.
      text: file for the compiled program.
    """
    lowered = program.lower()
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


# ---- In an environment of its own -------------------------------------------------------------------------


def compile_elsewhere(
    request: CompileRequest, python: str = sys.executable, *, timeout_seconds: float | None = None
) -> dict[str, Any]:
    """Return what `compile_program` says of the train step, from a process of another interpreter.

    Raises:
      UserError: the interpreter's environment has not the compiler, the program does not compile (it may need
        more memory than there is), or it takes too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        # This package alone, not what lies beside it: that would hide the environment's own JAX.
        (Path(folder) / "clipbert_jax").symlink_to(Path(__file__).parents[1])
        out = Path(folder) / "result.json"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "JAX_ENABLE_COMPILATION_CACHE": "false",  # programs from there tell nothing of themselves
            "PYTHONPATH": folder,
        }
        try:
            process = subprocess.run(
                [python, "-m", "clipbert_jax.costs.compile_for", str(out)],
                input=pickle.dumps(request),
                env=environment,
                capture_output=True,
                timeout=timeout_seconds,
            )
        except FileNotFoundError as error:
            raise UserError(f"--python {python} is no interpreter: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"compiling for {request.target} took more than {timeout_seconds:g} s: allow more with "
                "--timeout-minutes"
            ) from error
        result = json.loads(out.read_text()) if out.exists() else {}
        if "problem" in result:
            raise UserError(result["problem"])
        if process.returncode or not result:
            raise UserError(
                f"compiling for {request.target} failed: {_reason(process.stderr.decode(errors='replace'))}"
            )
        return result


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "RESOURCE_EXHAUSTED" in line or "Error" in line]
    return (telling or lines or ["it said nothing"])[-1][:500]


def main() -> None:
    """Compile the request on standard input; write JSON to the file that is the argument."""
    (out,) = sys.argv[1:]
    request: CompileRequest = pickle.loads(sys.stdin.buffer.read())
    problem = _missing_plugin(request.target)
    result = {"problem": problem} if problem else _compile(request)
    Path(out).write_text(json.dumps(result))


def _missing_plugin(target: str) -> str:
    """Return what this environment lacks to compile for a target; empty if nothing."""
    platform = platform_of(target)
    if platform == "cpu" or importlib.util.find_spec(PLUGINS[platform]):
        return ""
    folder = environment_folder(platform)
    packages = " ".join(f"'{package}'" for package in packages_to_compile(platform))
    return (
        f"{sys.executable} cannot compile for {target}: it lacks {PLUGINS[platform]}. Make an environment, "
        f"`python3 -m venv {folder} && {folder}/bin/pip install {packages}`, and give "
        f"--python {folder}/bin/python"
    )


def environment_folder(platform: Platform) -> str:
    """Return how the environment of a compiler is called."""
    return ".venv-cuda" if platform == "gpu" else f".venv-{platform}"


def packages_to_compile(platform: Platform) -> list[str]:
    """Return the packages that such an environment needs, in the versions that are here."""
    versions = [f"{name}=={version(name)}" for name in ("flax", "optax", "jaxtyping", "numpy")]
    return [f"{REQUIREMENTS[platform]}=={version('jax')}", *versions]


def _compile(request: CompileRequest) -> dict[str, Any]:
    import jax

    from clipbert_jax.training.sharding import make_mesh

    platform = platform_of(request.target)
    devices = jax.devices() if platform == "cpu" else target_devices(request.target)
    mesh = make_mesh(devices[: request.num_devices], request.setting.mesh)
    lowering, options = default_lowering(platform), COMPILER_OPTIONS[platform]
    result = compile_program(train_program(request.setting, mesh, lowering), options)
    if request.has_forward_pass:
        forward = compile_program(forward_program(request.setting, mesh, lowering), options)
        result["compiler_forward_flops"] = forward["compiler_flops"]
    return {"num_devices": mesh.size, **result}


if __name__ == "__main__":
    main()
