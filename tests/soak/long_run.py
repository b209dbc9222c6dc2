"""Train a tiny model for many steps: memory and open files must stay as they are, and nothing compile again.

python -m tests.soak.long_run --steps 20000

The C library gives every thread a heap of its own, which takes thousands of steps to fill up; with two for
all threads (`MALLOC_ARENA_MAX=2`) one sees what the program holds. `--own-heaps` leaves it its habit.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from clipbert_jax.training import compilations
from clipbert_jax.training.watchdog import Watchdog
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.runs import train_run as runs
from experiments.runtime.compilation_cache import use_compilation_cache
from tests.experiments.small_run import experiment

MAX_GROWTH = 0.01


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the process holds after a step."""

    step: int
    resident_bytes: int
    num_files: int


def sample(step: int) -> Sample:
    """Look at this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(step, pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")))


def mean_bytes(samples: list[Sample]) -> float:
    """Return the mean: a look may meet more or fewer batches that are being made."""
    return sum(sample.resident_bytes for sample in samples) / len(samples)


def train(folder: Path, num_steps: int, every: int) -> list[Sample]:
    """Train; return what was seen every so many steps."""
    data_dir = folder / "data"
    prepare_synthetic_videos(data_dir, num_train=10, num_validation=2, num_test=2, num_workers=0)
    run = experiment(data_dir, num_steps=num_steps, save_every=every)
    # One bucket of text lengths, one program.
    run = dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, num_threads=1),
        train=dataclasses.replace(run.train, log_every_steps=100, num_accumulation_steps=1),
    )
    samples: list[Sample] = []
    beat = Watchdog.beat

    def beat_and_look(self: Watchdog, what: str) -> None:
        beat(self, what)
        step = int(what.removeprefix("step ")) if what.startswith("step ") else 0
        if step % every == every // 2:  # between two saves
            samples.append(sample(step))

    Watchdog.beat = beat_and_look
    runs.train_run(run, folder / "run", log=lambda line: None)
    return samples


def main() -> None:
    """Run it; exit code 1 if something grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=1000, help="steps between two looks, and two saves")
    parser.add_argument("--own-heaps", action="store_true")
    options = parser.parse_args()
    if not options.own_heaps and "MALLOC_ARENA_MAX" not in os.environ:  # read when a program starts
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.soak.long_run", *sys.argv[1:]], environment)
    use_compilation_cache()
    counts: list[int] = []
    after_step = compilations.Compilations.after_step

    def count(self: compilations.Compilations, step: int) -> int:
        counts.append(after_step(self, step))
        return counts[-1]

    compilations.Compilations.after_step = count
    folder = Path(tempfile.mkdtemp(prefix="clipbert-soak-"))
    start = time.perf_counter()
    samples = train(folder, options.steps, options.every)
    shutil.rmtree(folder)
    print(f"{options.steps} steps in {time.perf_counter() - start:.0f} s, {counts[-1]} compilation(s)")
    for each in samples:
        print(f"step {each.step}: {each.resident_bytes / 2**20:.1f} MiB, {each.num_files} open files")
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    growth = mean_bytes(late) / mean_bytes(early) - 1
    print(
        f"memory from steps {early[0].step}-{early[-1].step} to {late[0].step}-{late[-1].step}: {growth:+.2%}"
    )
    has_more_files = max(s.num_files for s in late) > max(s.num_files for s in early)
    if growth > MAX_GROWTH or has_more_files or counts[-1] != 1:
        sys.exit("something grows that should not")


if __name__ == "__main__":
    main()
