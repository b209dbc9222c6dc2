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
import signal
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from clipbert_jax.training.interruption import CONTINUE_EXIT_CODE
from clipbert_jax.training.metrics_writer import read_metrics
from data_pipelines.corpus.embedded import prepare_embedded
from tests.experiments.small_runs import Started, read_arrays, start_together
from tests.soak.kills import checkpoint_steps

SAVE_EVERY = 10
MAX_SECONDS = 10.0
"""Until the kill, from the moment at which the two have found each other."""
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


def begin(data_dir: Path, workdir: Path, num_steps: int) -> list[Started]:
    """Start both processes; return when they have found each other."""
    starts = workdir / "environment.json"
    before = starts.stat().st_mtime_ns if starts.exists() else 0
    pair = start_together(2, data_dir, workdir, num_steps=num_steps, save_every=SAVE_EVERY, num_validations=2)
    while not (starts.exists() and starts.stat().st_mtime_ns > before):
        if any(started.process.poll() is not None for started in pair):
            break
        time.sleep(0.01)
    return pair


def kill_one(pair: list[Started], workdir: Path, draw: random.Random) -> Life:
    """Kill one of the two some time later; see the other one end, and look at what is left."""
    index = draw.randrange(2)
    victim, other = pair[index], pair[1 - index]
    time.sleep(draw.uniform(0, MAX_SECONDS))
    is_over = any(started.process.poll() == 0 for started in pair)
    victim.process.send_signal(signal.SIGKILL)
    start_time = time.monotonic()
    if is_over:
        other.ends_with(0)
    else:
        output = other.ends_with(CONTINUE_EXIT_CODE)
        assert "Traceback" not in output, output
    end_seconds = time.monotonic() - start_time
    assert end_seconds < MAX_END_SECONDS, f"the other process lived on for {end_seconds:.0f} s"
    steps = checkpoint_steps(workdir)
    for step in steps:
        assert len(jax.tree.leaves(read_arrays(workdir, step)["optimizer"])) > 30
    last = max([record["step"] for record in read_metrics(workdir)], default=0)
    return Life(is_over, last - max(steps, default=0), last > 0, end_seconds)


def main() -> None:
    """Run the campaign; exit code 1 if anything was lost that should not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--number", type=int, default=20, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-per-kill", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="clipbert-soak-"))
    data_dir, workdir = folder / "data", folder / "killed"
    prepare_embedded(data_dir, num_train=10, num_validation=2, num_test=2, num_workers=0)
    num_steps = options.number * options.steps_per_kill
    for started in begin(data_dir, folder / "unbroken", num_steps):
        started.ends_with(0)
    draw, lives = random.Random(options.seed), []
    for number in range(1, options.number + 1):
        lives.append(kill_one(begin(data_dir, workdir, num_steps), workdir, draw))
        if lives[-1].is_over:
            raise SystemExit(f"the run was over after {number - 1} kills: give more --steps-per-kill")
        print(f"{number} kills, {lives[-1]}", flush=True)
    for started in begin(data_dir, workdir, num_steps):
        started.ends_with(0)
    lost = [life.num_lost for life in lives]
    print(
        f"{len(lives)} kills, {sum(life.is_underway for life in lives)} of a run that was underway; every "
        f"checkpoint could be read; lost steps: at most {max(lost)}, saved every {SAVE_EVERY}; the other "
        f"process ended after at most {max(life.end_seconds for life in lives):.0f} s"
    )
    # The checkpoint of an interval is being written while the next one begins.
    if max(lost) >= 2 * SAVE_EVERY:
        raise SystemExit("more was lost than an interval and what a save takes")
    ours, theirs = (read_arrays(folder / name) for name in ("killed", "unbroken"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    print(f"after {num_steps} steps all arrays are bitwise those of the unbroken run")


if __name__ == "__main__":
    main()
