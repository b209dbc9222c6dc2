"""Start small training runs as processes, see them end, and read what they left."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from clipbert_jax.training.metrics_writer import read_metrics
from tests.xla_flags import COMPILE_FAST

SCRIPT = Path(__file__).with_name("small_run.py")
ROOT = SCRIPT.parents[2]
TIMEOUT_SECONDS = 400


@dataclasses.dataclass
class Started:
    """A process and what it prints."""

    process: subprocess.Popen[str]

    def ends_with(self, code: int) -> str:
        """Wait for the end; return what was printed."""
        try:
            output, _ = self.process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            self.process.kill()
        assert self.process.returncode == code, f"ended with {self.process.returncode}\n{output}"
        return output


def start(
    data_dir: Path, workdir: Path, *, environment: dict[str, str] | None = None, **options: Any
) -> Started:
    """Start a run of `small_run.py` with one device."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return start_command([sys.executable, str(SCRIPT), str(data_dir), str(workdir), *arguments], environment)


def start_command(command: list[str], environment: dict[str, str] | None = None) -> Started:
    """Start a command in the repository's environment."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "XLA_FLAGS": COMPILE_FAST, "PYTHONPATH": str(ROOT), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Started(process)


def environments(num_processes: int) -> list[dict[str, str]]:
    """Return what tells so many processes of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(num_processes),
            "JAX_PROCESS_ID": str(index),
        }
        for index in range(num_processes)
    ]


def start_together(num_processes: int, data_dir: Path, workdir: Path, **options: Any) -> list[Started]:
    """Start one run as several processes."""
    return [
        start(data_dir, workdir, environment=environment, **options)
        for environment in environments(num_processes)
    ]


def read_losses(workdir: Path) -> dict[int, tuple[float, float]]:
    """Return loss and gradient norm of each step."""
    records = read_metrics(workdir)
    return {record["step"]: (record["loss"], record["grad_norm"]) for record in records if "loss" in record}


def read_arrays(workdir: Path, step: int | None = None) -> Any:
    """Return parameters, their averages and optimizer state of a checkpoint, by default the newest."""
    items = dict.fromkeys(("parameters", "ema", "optimizer"), ocp.args.StandardRestore())
    with warnings.catch_warnings(), ocp.CheckpointManager((workdir / "checkpoints").resolve()) as manager:
        warnings.simplefilter("ignore")  # Orbax's about restoring without a target
        step = manager.latest_step() if step is None else step
        return manager.restore(step, args=ocp.args.Composite(**items))
