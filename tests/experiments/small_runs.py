"""Start small training runs as processes, see them end, and read what they left."""

from __future__ import annotations

import atexit
import dataclasses
import gc
import multiprocessing
import os
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.forkserver import _forkserver
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from clipbert_jax.training.metrics_writer import read_metrics
from tests.xla_flags import COMPILE_FAST

TIMEOUT_SECONDS = 400

_FORKS = multiprocessing.get_context("forkserver")
# What takes seconds to import is imported once, by the process that all others are forked from. It never
# starts JAX.
_FORKS.set_forkserver_preload(["tests.experiments.small_run", "tests.experiments.small_runs"])
# Ended by this process, so that its processor time counts as that of a child.
atexit.register(_forkserver._stop)


@dataclasses.dataclass
class Started:
    """A process and what it prints."""

    process: multiprocessing.process.BaseProcess
    output: Connection

    def ends_with(self, code: int) -> str:
        """Wait for the end; return what was printed."""
        limit = threading.Timer(TIMEOUT_SECONDS, self.process.kill)
        limit.start()
        try:
            with self.output, open(self.output.fileno(), errors="replace", closefd=False) as file:
                output = file.read()
            self.process.join(TIMEOUT_SECONDS)
        finally:
            limit.cancel()
            self.process.kill()
        assert self.process.exitcode == code, f"ended with {self.process.exitcode}\n{output}"
        return output


def start(
    data_dir: Path, workdir: Path, *, environment: dict[str, str] | None = None, **options: Any
) -> Started:
    """Start a run of `small_run.py` with one device."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    program = "from tests.experiments.small_run import main; main()"
    return start_program(program, environment, [str(data_dir), str(workdir), *arguments])


def start_program(
    program: str, environment: dict[str, str] | None = None, arguments: Sequence[str] = ()
) -> Started:
    """Start a program in a process of its own, as `python -c PROGRAM ARGUMENTS`, but with imports done."""
    output, its_output = _FORKS.Pipe(duplex=False)
    values = {"XLA_FLAGS": COMPILE_FAST, **(environment or {})}
    process = _FORKS.Process(target=_run, args=(program, values, arguments, its_output))
    process.start()
    its_output.close()
    return Started(process, output)


def _run(program: str, environment: dict[str, str], arguments: Sequence[str], output: Connection) -> None:
    """Be the program."""
    gc.set_threshold(200_000, 20, 20)  # as in conftest.py
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    finally:  # end as Python does, in its order; `multiprocessing` leaves the second out
        threading._shutdown()
        atexit._run_exitfuncs()


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
