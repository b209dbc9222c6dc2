"""Compiles the train step in the environment of another interpreter: the parent's side and the child's.

    compile_elsewhere(CompileRequest(setting=setting, target="v5e:16x16"), python=".venv-tpu/bin/python")

`estimate.py` calls this. The child is this module too, and needs few packages beside JAX and Flax:

    python -m experiments.estimate.compile_elsewhere result.json < request.json
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from clipbert_jax.config_json import config_from_json, config_to_json
from clipbert_jax.costs.compiler import (
    COMPILER_OPTIONS,
    PLUGINS,
    compile_program,
    environment_folder,
    packages_to_compile,
    target_devices,
)
from clipbert_jax.costs.devices import platform_of
from clipbert_jax.errors import UserError
from clipbert_jax.models.kernel_choices import default_kernel_choices
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.train_program import TrainSetting, forward_program, train_program

_ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileRequest:
    """Train step to compile, and the devices to compile it for."""

    setting: TrainSetting
    target: str
    """Kind and shape of the devices, such as `v5e:16x16` or `h100:8`; `cpu` for the CPU of this machine."""
    num_devices: int | None = None
    """Number of devices to use; default: all."""
    has_forward_pass: bool = False
    """Also compile the forward pass alone, to count its operations."""


def compile_elsewhere(
    request: CompileRequest, python: str = sys.executable, *, timeout_seconds: float | None = None
) -> dict[str, Any]:
    """Compile the train step in a process of another interpreter.

    Raises:
      UserError: the environment lacks the compiler, the program does not compile (it may need more memory
        than there is), or it takes too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        # These packages alone: what is installed beside them would hide the environment's own JAX.
        for package in ("clipbert_jax", "experiments"):
            (Path(folder) / package).symlink_to(_ROOT / package)
        out = Path(folder) / "result.json"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "JAX_ENABLE_COMPILATION_CACHE": "false",  # cached programs carry no statistics
            "PYTHONPATH": folder,
        }
        try:
            process = subprocess.run(
                [python, "-m", "experiments.estimate.compile_elsewhere", str(out)],
                input=json.dumps(config_to_json(request)).encode(),
                env=environment,
                capture_output=True,
                timeout=timeout_seconds,
            )
        except FileNotFoundError as error:
            raise UserError(f"--python {python} is not a Python interpreter: {error.strerror}") from error
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
    return (telling or lines or ["it printed no message"])[-1][:500]


def main() -> None:
    """Compile the request on standard input; write JSON to the file that is the argument."""
    (out,) = sys.argv[1:]
    request = config_from_json(json.load(sys.stdin), CompileRequest, Path("the request"))
    try:
        check_plugin(request.target)
        result = _compile(request)
    except UserError as error:
        result = {"problem": str(error)}
    Path(out).write_text(json.dumps(result))


def check_plugin(target: str) -> None:
    """Check that this environment can compile for a target.

    Raises:
      UserError: it lacks a module; the sentence says how to make an environment that has it.
    """
    platform = platform_of(target)
    if platform == "cpu" or importlib.util.find_spec(PLUGINS[platform]):
        return
    folder = environment_folder(platform)
    packages = " ".join(f"'{package}'" for package in packages_to_compile(platform))
    raise UserError(
        f"{sys.executable} cannot compile for {target}: it lacks {PLUGINS[platform]}. Make an environment, "
        f"`python3 -m venv {folder} && {folder}/bin/pip install {packages}`, and give "
        f"--python {folder}/bin/python"
    )


def _compile(request: CompileRequest) -> dict[str, Any]:
    platform = platform_of(request.target)
    devices = jax.devices() if platform == "cpu" else target_devices(request.target)
    mesh = make_mesh(devices[: request.num_devices], request.setting.mesh)
    kernels, options = default_kernel_choices(platform), COMPILER_OPTIONS[platform]
    result = compile_program(train_program(request.setting, mesh, kernels).lower(), options)
    if request.has_forward_pass:
        forward = compile_program(forward_program(request.setting, mesh, kernels).lower(), options)
        result["compiler_forward_flops"] = forward["compiler_flops"]
    return {"num_devices": mesh.size, **result}


if __name__ == "__main__":
    main()
