"""Stop a small training after each of many steps: what goes on from there must be bitwise the unbroken run.

python -m tests.soak.stops --steps 1 2 3 --tasks retrieval pretraining --workers 0 2
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
from pathlib import Path

import jax
import numpy as np

from data_pipelines.synthetic.image_corpus import prepare_synthetic_images
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.runs.train_run import train_run
from experiments.runtime.compilation_cache import use_compilation_cache
from tests.experiments.small_run import After, experiment
from tests.experiments.small_runs import read_arrays, read_losses

NUM_STEPS = 40
PREPARE = {"retrieval": prepare_synthetic_videos, "pretraining": prepare_synthetic_images}


def train(data_dir: Path, workdir: Path, *, task: str, num_workers: int, stop_after: int = 0) -> None:
    """Train to the end, or until SIGTERM comes after a step."""
    run = experiment(data_dir, task=task, num_workers=num_workers, num_steps=NUM_STEPS, save_every=100)
    stop = After(stop_after, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        train_run(run, workdir, callbacks=[stop], log=lambda line: None)
    except SystemExit:
        assert stop_after, "the run stopped without a signal"
    else:
        assert not stop_after, "the run went on"


def check(data_dir: Path, unbroken: Path, workdir: Path, step: int, *, task: str, num_workers: int) -> None:
    """Stop after a step, go on, compare, and forget the run."""
    train(data_dir, workdir, task=task, num_workers=num_workers, stop_after=step)
    assert [path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()] == [str(step)]
    train(data_dir, workdir, task=task, num_workers=num_workers)
    assert read_losses(workdir) == read_losses(unbroken), f"losses differ after a stop at step {step}"
    ours, theirs = read_arrays(workdir), read_arrays(unbroken)
    for item in ("parameters", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, ours[item], theirs[item])
    shutil.rmtree(workdir)


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, nargs="+", default=list(range(1, 21)))
    parser.add_argument("--tasks", nargs="+", choices=list(PREPARE), default=list(PREPARE))
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    options = parser.parse_args()
    use_compilation_cache()
    folder = Path(tempfile.mkdtemp(prefix="clipbert-soak-"))
    for task in options.tasks:
        data_dir, unbroken = folder / f"{task}-data", folder / f"{task}-unbroken"
        PREPARE[task](data_dir, num_train=10, num_validation=2, num_test=2, num_workers=0)
        train(data_dir, unbroken, task=task, num_workers=0)
        for num_workers in options.workers:
            for step in options.steps:
                check(data_dir, unbroken, folder / "run", step, task=task, num_workers=num_workers)
            print(
                f"{task}, {num_workers} workers: stopped after each of {len(options.steps)} steps of "
                f"{NUM_STEPS}, losses, parameters and moments are bitwise those of the unbroken run",
                flush=True,
            )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
