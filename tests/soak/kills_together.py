"""Kill one of two processes of a small training at random moments, again and again.

    python -m tests.soak.kills_together --number 20 --seed 0

They may be restoring, compiling, training, validating or saving. The other one must end within a minute, with
the code that launchers start again on; every checkpoint must be readable; and the run must end as the one of
two processes that were never killed, bitwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from clipbert_jax.errors import CONTINUE_EXIT_CODE
from clipbert_jax.training.checkpoint_items import item_handlers, restore_target
from clipbert_jax.training.metrics_writer import read_metrics
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.runs.starts import read_starts
from tests.experiments.small_runs import Started, start_together
from tests.soak.kills import checkpoint_steps

SAVE_EVERY = 10
ITEMS = ("parameters", "ema", "optimizer")
MAX_START_SECONDS = 10.0
"""Of every fourth life, from the moment at which the two have found each other: most die while they start."""
MAX_TRAINING_SECONDS = 2.0
"""Of the others, from their first step on."""
MAX_END_SECONDS = 60.0
"""From the kill to the end of the other process."""


@dataclasses.dataclass(frozen=True)
class Life:
    """What a kill has left."""

    is_over: bool
    """The run had come to its end before."""
    num_lost: int
    """Steps after the newest checkpoint."""
    is_underway: bool
    """Some steps were made already."""
    end_seconds: float = 0.0
    """How long the other process lived on."""


class Run:
    """One training of two processes, in lives."""

    def __init__(self, data_dir: Path, workdir: Path, *, num_steps: int, num_validations: int) -> None:
        self._data_dir, self.workdir = data_dir, workdir
        self._options = {"num_steps": num_steps, "num_validations": num_validations, "save_every": SAVE_EVERY}

    def start(self) -> list[Started]:
        """Start both processes."""
        return start_together(2, self._data_dir, self.workdir, **self._options)

    def finish(self) -> None:
        """Train to the end."""
        for started in self.start():
            started.ends_with(0)

    def kill_one(self, draw: random.Random, *, at_start: bool) -> Life:
        """Start both, kill one of them some time later, see the other one end, and look at what is left."""
        starts, num_boards, index = self._num_starts(), self._num_boards(), draw.randrange(2)
        pair = self.start()
        victim, other = pair[index], pair[1 - index]
        if at_start:
            wait_until(pair, lambda: self._num_starts() > starts)
            time.sleep(draw.uniform(0, MAX_START_SECONDS))
        else:
            # Once that file is there, records of steps that come again are gone, and more are of new ones.
            wait_until(pair, lambda: self._num_boards() > num_boards)
            num_records = len(read_metrics(self.workdir))
            wait_until(pair, lambda: len(read_metrics(self.workdir)) > num_records)
            time.sleep(draw.uniform(0, MAX_TRAINING_SECONDS))
        is_over = any(started.process.exitcode == 0 for started in pair)
        victim.process.kill()
        start_time = time.monotonic()
        output = other.ends_with(0 if is_over else CONTINUE_EXIT_CODE)
        assert "Traceback" not in output, output
        end_seconds = time.monotonic() - start_time
        assert end_seconds < MAX_END_SECONDS, f"the other process lived on for {end_seconds:.0f} s"
        for step in checkpoint_steps(self.workdir):
            assert len(jax.tree.leaves(self.arrays(step)["optimizer"])) > 30
        last = max([record["step"] for record in read_metrics(self.workdir)], default=0)
        newest = max(checkpoint_steps(self.workdir), default=0)
        return Life(is_over, last - newest, last > 0, end_seconds)

    def arrays(self, step: int | None = None) -> dict[str, Any]:
        """Return all arrays of a checkpoint, by default the newest, on one device: two have written them."""
        device = SingleDeviceSharding(jax.local_devices()[0])
        directory = (self.workdir / "checkpoints").resolve()
        with ocp.CheckpointManager(directory, item_handlers=item_handlers()) as manager:
            step = manager.latest_step() if step is None else step
            saved = manager.item_metadata(step)
            targets = {item: restore_target(saved[item], device) for item in ITEMS}
            items = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
            return dict(manager.restore(step, args=ocp.args.Composite(**items)).items())

    def _num_starts(self) -> int:
        return len(read_starts(self.workdir))

    def _num_boards(self) -> int:
        return len(list((self.workdir / "tensorboard").glob("*")))


def wait_until(pair: list[Started], is_so: Callable[[], bool]) -> None:
    """Wait for something, or for the end of a process."""
    while not is_so() and all(started.process.exitcode is None for started in pair):
        time.sleep(0.01)


def main() -> None:
    """Run the campaign; exit code 1 if anything was lost that should not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--number", type=int, default=20, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-per-kill", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="clipbert-soak-"))
    data_dir = folder / "data"
    prepare_synthetic_videos(data_dir, num_train=10, num_validation=2, num_test=2, num_workers=0)
    num_steps = options.number * options.steps_per_kill
    unbroken, killed = (
        Run(data_dir, folder / name, num_steps=num_steps, num_validations=2 * options.number)
        for name in ("unbroken", "killed")
    )
    unbroken.finish()
    draw, lives = random.Random(options.seed), []
    for number in range(1, options.number + 1):
        lives.append(killed.kill_one(draw, at_start=number % 4 == 0))
        if lives[-1].is_over:
            raise SystemExit(f"the run was over after {number - 1} kills: give more --steps-per-kill")
        print(f"{number} kills, {lives[-1]}", flush=True)
    killed.finish()
    lost = [life.num_lost for life in lives]
    print(
        f"{len(lives)} kills, {sum(life.is_underway for life in lives)} of a run that was underway; every "
        f"checkpoint could be read; lost steps: at most {max(lost)}, saved every {SAVE_EVERY}; the other "
        f"process ended after at most {max(life.end_seconds for life in lives):.0f} s"
    )
    # The checkpoint of an interval is being written while the next one begins.
    if max(lost) >= 2 * SAVE_EVERY:
        raise SystemExit("more was lost than an interval and what a save takes")
    jax.tree.map(np.testing.assert_array_equal, killed.arrays(), unbroken.arrays())
    print(f"after {num_steps} steps all arrays are bitwise those of the unbroken run")


if __name__ == "__main__":
    main()
