"""Kill a small training at random moments, again and again: what is left must always do.

    python -m tests.soak.kills --number 100 --seed 0

Each life is a process of its own, forked from this one, which imports everything and never starts JAX. It
first reads every checkpoint that it finds, then trains on until it is killed. At the end the run must be
bitwise the one that was never killed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from clipbert_jax.training.checkpoint import SavedCheckpoint
from clipbert_jax.training.metrics_writer import read_metrics
from data_pipelines.corpus.embedded import prepare_embedded
from experiments import runs
from experiments.compilation_cache import use_compilation_cache
from experiments.experiment import model_shapes
from tests.experiments.small_run import experiment
from tests.experiments.small_runs import read_arrays

SAVE_EVERY = 20
MAX_SECONDS = 2.5
"""Of a life, from the moment at which it looks at the run directory."""


def live(workdir: Path, data_dir: Path, num_steps: int, notes: Path) -> None:
    """Read all checkpoints, then train to the end or to death."""
    run = experiment(data_dir, num_steps=num_steps, save_every=SAVE_EVERY)
    steps = checkpoint_steps(workdir)
    last = max([record["step"] for record in read_metrics(workdir)], default=0)
    with notes.open("a") as file:
        file.write(json.dumps({"newest_checkpoint": max(steps, default=0), "last_step": last}) + "\n")
    _, trainable, frozen = model_shapes(run)
    for step in steps:
        SavedCheckpoint(workdir, step=step).load_parameters({**trainable, **frozen})
        assert len(jax.tree.leaves(read_arrays(workdir, step)["optimizer"])) > 30
    runs.train_run(run, workdir)


def checkpoint_steps(workdir: Path) -> list[int]:
    """Return the steps of the checkpoints that a user would find."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def fork(function: Callable[[], None], log: Path) -> int:
    """Run a function in a forked process that prints into a file; return its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        with contextlib.suppress(BaseException):
            try:
                use_compilation_cache()
                function()
                code = 0
            except BaseException:
                traceback.print_exc()
                raise
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def exit_code(process: int) -> int:
    """Wait for a process."""
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def kill_after(process: int, seconds: float, notes: Path, num_lives: int) -> int:
    """Kill a process some time after it has begun; return its exit code."""
    while len(read_notes(notes)) < num_lives:
        time.sleep(0.01)
        if os.waitpid(process, os.WNOHANG)[0]:
            raise SystemExit("a life ended before it began")
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return exit_code(process)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a life found when it began."""

    newest_checkpoint: int
    last_step: int
    """Of which there is a record."""


def read_notes(notes: Path) -> list[Found]:
    """Return what each life found."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [Found(**json.loads(line)) for line in lines]


def main() -> None:
    """Run the campaign; exit code 1 if anything was lost that should not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--number", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-per-kill", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="clipbert-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    data_dir, workdir, notes = folder / "data", folder / "killed", folder / "notes.jsonl"
    num_steps = options.number * options.steps_per_kill
    preparing = fork(
        lambda: (
            prepare_embedded(data_dir, num_train=10, num_validation=2, num_test=2, num_workers=0) and None
        ),
        folder / "prepare.log",
    )
    if exit_code(preparing):
        raise SystemExit((folder / "prepare.log").read_text())
    # First, so that compiled programs are kept: no life is long enough to compile.
    unbroken = fork(
        lambda: live(folder / "unbroken", data_dir, num_steps, folder / "unbroken.jsonl"),
        folder / "unbroken.log",
    )
    if exit_code(unbroken):
        raise SystemExit((folder / "unbroken.log").read_text()[-4000:])
    draw = random.Random(options.seed)
    for number in range(1, options.number + 1):
        process = fork(lambda: live(workdir, data_dir, num_steps, notes), folder / "lives.log")
        code = kill_after(process, draw.uniform(0, MAX_SECONDS), notes, number)
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"life {number} failed:\n{(folder / 'lives.log').read_text()[-4000:]}")
        if number % 10 == 0:
            print(f"{number} kills, at step {read_notes(notes)[-1].last_step} of {num_steps}", flush=True)
    last = fork(lambda: live(workdir, data_dir, num_steps, notes), folder / "lives.log")
    if exit_code(last):
        raise SystemExit((folder / "lives.log").read_text()[-4000:])
    report(read_notes(notes), folder, num_steps)


def report(lives: list[Found], folder: Path, num_steps: int) -> None:
    """Say what was lost, and compare with the run that was never killed."""
    lost = [life.last_step - life.newest_checkpoint for life in lives[1:]]
    num_underway = sum(0 < life.last_step < num_steps for life in lives)
    print(
        f"{len(lives) - 1} kills, {num_underway} of a run that was underway; every checkpoint could be read; "
        f"lost steps: at most {max(lost)}, {np.mean(lost):.1f} on average, saved every {SAVE_EVERY}"
    )
    # The checkpoint of an interval is being written while the next one begins.
    if max(lost) >= 2 * SAVE_EVERY:
        raise SystemExit("more was lost than an interval and what a save takes")
    compared = os.fork()  # JAX starts here
    if compared == 0:
        code = 1
        with contextlib.suppress(AssertionError):
            ours, theirs = (read_arrays(folder / name) for name in ("killed", "unbroken"))
            for item in ("parameters", "optimizer"):
                jax.tree.map(np.testing.assert_array_equal, ours[item], theirs[item])
            code = 0
        os._exit(code)
    if exit_code(compared):
        raise SystemExit("the run that was killed differs from the one that was not")
    print(f"after {num_steps} steps all parameters and moments are bitwise those of the unbroken run")


if __name__ == "__main__":
    main()
