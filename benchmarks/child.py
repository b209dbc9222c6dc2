"""Starts programs that measure in processes of their own and print JSON."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run_child(
    command: Sequence[str],
    *,
    timeout_seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the last JSON object that a program prints, or `problem`: the reason why it printed none."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    try:
        process = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {}), "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        return {"problem": "took too long"}
    found = _last_object(process.stdout)
    if process.returncode or found is None:
        return {
            "problem": _reason(process.stderr),
            "stderr": process.stderr[-4000:],
            "command": shlex.join(command),
        }
    return found


def _last_object(output: str) -> dict[str, Any] | None:
    """Return the last line that is a JSON object: libraries may print after it."""
    for line in reversed(output.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


def _reason(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if "RESOURCE_EXHAUSTED" in line or "Error" in line]
    return (told or lines or ["no output"])[-1][:300]
