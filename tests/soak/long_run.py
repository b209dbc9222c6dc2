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

from clipbert_jax.batch import Batch
from clipbert_jax.training.callbacks import Callback
from clipbert_jax.training.metrics_writer import read_metrics
from clipbert_jax.training.step import Metrics
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.runs.train_run import train_run
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


class Sampler(Callback):
    """Takes samples between saves, which come every so many steps."""

    def __init__(self, every: int) -> None:
        self.every, self.samples = every, list[Sample]()

    def after_step(self, step: int, batch: Batch, metrics: Metrics) -> None:
        if step % self.every == self.every // 2:
            self.samples.append(sample(step))


def train(folder: Path, num_steps: int, every: int) -> tuple[list[Sample], int]:
    """Train; return what was seen every so many steps, and the number of compilations."""
    data_dir = folder / "data"
    prepare_synthetic_videos(data_dir, num_train=10, num_validation=2, num_test=2, num_workers=0)
    run = experiment(data_dir, num_steps=num_steps, save_every=every)
    # One bucket of text lengths, one program.
    run = dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, num_threads=1),
        train=dataclasses.replace(run.train, log_every_steps=100, num_accumulation_steps=1),
    )
    sampler = Sampler(every)
    train_run(run, folder / "run", callbacks=[sampler], log=lambda line: None)
    records = read_metrics(folder / "run")
    return sampler.samples, sum(record.get("num_compilations", 0) for record in records)


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
    folder = Path(tempfile.mkdtemp(prefix="clipbert-soak-"))
    start = time.perf_counter()
    samples, num_compilations = train(folder, options.steps, options.every)
    shutil.rmtree(folder)
    print(f"{options.steps} steps in {time.perf_counter() - start:.0f} s, {num_compilations} compilation(s)")
    for each in samples:
        print(f"step {each.step}: {each.resident_bytes / 2**20:.1f} MiB, {each.num_files} open files")
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    growth = mean_bytes(late) / mean_bytes(early) - 1
    print(
        f"memory from steps {early[0].step}-{early[-1].step} to {late[0].step}-{late[-1].step}: {growth:+.2%}"
    )
    has_more_files = max(s.num_files for s in late) > max(s.num_files for s in early)
    if growth > MAX_GROWTH or has_more_files or num_compilations != 1:
        sys.exit("something grows that should not")


if __name__ == "__main__":
    main()
