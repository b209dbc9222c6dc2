"""The provenance in result files: versions, device, command and time, beside every number."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from clipbert_jax.atomic_files import write_whole

PACKAGES = ("clipbert_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "av", "numpy")


def environment() -> dict[str, Any]:
    """Return versions, device, command and time of this process."""
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
        "command": command_line(),
        "date": now(),
    }


def now() -> str:
    """Return the time, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_whole(path, json.dumps(values, indent=2) + "\n")


def command_line() -> str:
    """Return the command of this process, as a user would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", spec.name] if spec else [Path(sys.argv[0]).name]
    return shlex.join([*program, *sys.argv[1:]])
