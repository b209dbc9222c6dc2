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
from functools import partial
from pathlib import Path

import jax
import numpy as np

from clipbert_jax.models.clipbert import model_shapes
from clipbert_jax.training.metrics_writer import read_metrics
from clipbert_jax.training.saved_checkpoint import SavedCheckpoint
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.runs import train_run as runs
from experiments.runtime.compilation_cache import use_compilation_cache
from tests.experiments.small_run import experiment
from tests.experiments.small_runs import read_arrays

SAVE_EVERY = 20
MAX_START_SECONDS = 4.0
"""Of every fourth life, from the moment at which it looks at the run directory: most die while they start."""
MAX_TRAINING_SECONDS = 2.0
"""Of the others, from their first step on."""


def live(workdir: Path, data_dir: Path, num_steps: int, notes: Path) -> None:
    """Read all checkpoints, then train to the end or to death."""
    run = experiment(data_dir, num_steps=num_steps, save_every=SAVE_EVERY)
    steps = checkpoint_steps(workdir)
    last = max([record["step"] for record in read_metrics(workdir)], default=0)
    with notes.open("a") as file:
        file.write(json.dumps({"newest_checkpoint": max(steps, default=0), "last_step": last}) + "\n")
    _, trainable, frozen = model_shapes(run.model, run.task.head)
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


def kill_after(process: int, seconds: float, has_begun: Callable[[], bool]) -> int:
    """Kill a process some time after it has begun with something; return its exit code."""
    while not has_begun():
        time.sleep(0.01)
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return exit_code(process)
    time.sleep(seconds)
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


def has_noted(notes: Path, number: int) -> bool:
    """Return whether so many lives have begun."""
    return len(read_notes(notes)) == number


def has_made_a_step(lives: Path, said: int) -> bool:
    """Return whether a life has made a step, by what it has printed after `said` bytes of those before."""
    with lives.open("rb") as file:
        file.seek(said)
        return b"  loss " in file.read()


def main() -> None:
    """Run the campaign; exit code 1 if anything was lost that should not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--number", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-per-kill", type=int, default=80)
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="clipbert-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    data_dir, workdir, notes = folder / "data", folder / "killed", folder / "notes.jsonl"
    num_steps = options.number * options.steps_per_kill
    preparing = fork(
        lambda: (
            prepare_synthetic_videos(data_dir, num_train=10, num_validation=2, num_test=2, num_workers=0)
            and None
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
    lives = folder / "lives.log"
    lives.touch()
    draw = random.Random(options.seed)
    for number in range(1, options.number + 1):
        said = lives.stat().st_size
        process = fork(lambda: live(workdir, data_dir, num_steps, notes), lives)
        if number % 4 == 0:
            seconds, has_begun = draw.uniform(0, MAX_START_SECONDS), partial(has_noted, notes, number)
        else:
            seconds, has_begun = draw.uniform(0, MAX_TRAINING_SECONDS), partial(has_made_a_step, lives, said)
        code = kill_after(process, seconds, has_begun)
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"life {number} failed:\n{lives.read_text()[-4000:]}")
        if number % 10 == 0:
            print(f"{number} kills, at step {read_notes(notes)[-1].last_step} of {num_steps}", flush=True)
    last = fork(lambda: live(workdir, data_dir, num_steps, notes), lives)
    if exit_code(last):
        raise SystemExit(lives.read_text()[-4000:])
    report(read_notes(notes), folder, num_steps)


def report(lives: list[Found], folder: Path, num_steps: int) -> None:
    """Say what was lost, and compare with the run that was never killed."""
    lost = [life.last_step - life.newest_checkpoint for life in lives[1:]]
    num_underway = sum(0 < life.last_step < num_steps for life in lives[1:])
    print(
        f"{len(lives) - 1} kills, {num_underway} of a run that was underway; every checkpoint could be read; "
        f"lost steps: at most {max(lost)}, {np.mean(lost):.1f} on average, saved every {SAVE_EVERY}"
    )
    if num_underway < (len(lives) - 1) / 2:
        raise SystemExit("too few kills have met a run that was underway: this says little")
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
