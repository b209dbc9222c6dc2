"""How fast decoding feeds training: measured by `bench_host` with the loader and the prefetching of training.

Two corpora are generated: the demo's, and videos of MSR-VTT's size with the clips of the full-size model. A
device whose work needs no cores is stood in for by one that takes a time for each step, simulated by waiting.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.programs import training
from benchmarks.synthetic_videos import Source, encode_source
from benchmarks.workloads import find_workload
from clipbert_jax.batch import Batch
from clipbert_jax.models.kernel_choices import default_kernel_choices
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.prefetch import Prefetcher
from clipbert_jax.training.sharding import make_mesh, put_batch
from data_pipelines.corpus.folder import prepare_folder
from data_pipelines.data_config import DataConfig
from data_pipelines.loader import TrainBatches, train_batches
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos

DEMO = ("demo", "tiny train")
DEVICE_SHARES = (1.25, 0.95, 0.8, 0.5)
"""Rates of the simulated devices, as shares of what the decoders give; the first one must wait. They fall, so
that no device lives on batches that a slower one has left."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Videos, and what is read of them."""

    name: str
    data: DataConfig
    task: Retrieval
    batch_size: int

    def batches(self, num_workers: int) -> TrainBatches:
        """Return the loader of training."""
        data = dataclasses.replace(self.data, num_workers=num_workers)
        return train_batches(data, self.task, batch_size=self.batch_size, seed=0)


def demo_corpus(folder: Path, *, num_videos: int) -> Corpus:
    """Generate the corpus of `make demo`."""
    prepare_synthetic_videos(folder, num_train=num_videos, num_validation=1, num_test=1)
    demo = find_workload(*DEMO)
    assert isinstance(demo.task, Retrieval)
    return Corpus(
        name=f"the demo's videos: {demo.num_clips} clips of {demo.num_frames} frame, {demo.size} px",
        data=DataConfig(
            data_dir=str(folder),
            num_clips=demo.num_clips,
            num_frames=demo.num_frames,
            size=demo.size,
            max_text_length=demo.text_length,
        ),
        task=demo.task,
        batch_size=demo.batch_size,
    )


def camera_corpus(folder: Path, *, num_videos: int, seconds: float) -> Corpus:
    """Generate videos as large as MSR-VTT's, read as the full-size model does."""
    source, videos, table = Source(width=320, height=240, gop=250), folder / "videos", folder / "captions.csv"
    videos.mkdir(parents=True)
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "caption"])
        for number in range(num_videos):
            (videos / f"{number}.mp4").write_bytes(encode_source(source, seconds=seconds, seed=number))
            rows.writerow([f"{number}.mp4", f"camera number {number} pans over a ground"])
    prepare_folder(videos, table, folder / "data")
    return Corpus(
        name=f"{source.name}, {seconds:g} s: 8 clips of 2 frames, 448 px",
        data=DataConfig(data_dir=str(folder / "data")),
        task=Retrieval(),
        batch_size=4,
    )


def core_seconds_per_video(corpus: Corpus, *, seconds: float) -> float:
    """Return what a video costs a worker, by its own clock of processor time."""
    with contextlib.closing(corpus.batches(num_workers=1)) as batches:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            next(batches)
        cost = batches.core_seconds_per_video()
    assert cost is not None
    return cost


class WaitingDevice:
    """A device that takes a time for each step, simulated by waiting: the host's cores are free meanwhile."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._ready_at = 0.0

    def __call__(self, batch: Batch) -> float:
        """Dispatch a step, and return when it will be done."""
        del batch
        self._ready_at = max(self._ready_at, time.perf_counter()) + self._step_seconds
        return self._ready_at

    @staticmethod
    def wait(ready_at: float) -> None:
        """Wait until a step is done."""
        time.sleep(max(0.0, ready_at - time.perf_counter()))


def steps_per_second(
    batches: Iterator[Batch],
    dispatch: Callable[[Batch], Any],
    wait: Callable[[Any], Any],
    *,
    seconds: float,
) -> float:
    """Train for some seconds as the training loop does, with one step in flight, after two to warm up."""
    for _ in range(2):
        wait(dispatch(next(batches)))
    before, num_steps, begin = None, 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        now = dispatch(next(batches))
        if before is not None:
            wait(before)
        before, num_steps = now, num_steps + 1
    wait(before)
    return num_steps / (time.perf_counter() - begin)


def _prefetched(corpus: Corpus, num_workers: int, mesh: Mesh) -> Prefetcher:
    return Prefetcher(corpus.batches(num_workers), lambda batch: put_batch(batch, mesh))


def overlap(corpus: Corpus, num_workers: int, *, seconds: float) -> dict[str, Any]:
    """Return what decoders give alone, and how much of their own rate devices of several rates reach."""
    with contextlib.closing(_prefetched(corpus, num_workers, make_mesh(jax.devices()[:1]))) as batches:

        def fed(step_seconds: float) -> float:
            device = WaitingDevice(step_seconds)
            return corpus.batch_size * steps_per_second(batches, device, device.wait, seconds=seconds)

        decoders = fed(0.0)
        rates = {share: fed(corpus.batch_size / (share * decoders)) for share in DEVICE_SHARES}
    return {
        "num_workers": num_workers,
        "decoders_videos_per_second": decoders,
        "devices": [
            {
                "share_of_decoders": share,
                "step_seconds": corpus.batch_size / (share * decoders),
                "videos_per_second": rate,
                "ratio": rate / (share * decoders),
            }
            for share, rate in rates.items()
        ],
    }


def end_to_end(corpus: Corpus, num_workers: int, *, seconds: float, num_rounds: int) -> dict[str, Any]:
    """Train the demo's model on decoded batches and, in turn, on one batch again and again."""
    mesh = make_mesh(jax.devices()[:1])
    make_state, train_step = training(find_workload(*DEMO), mesh, default_kernel_choices())
    state = make_state()

    def step(batch: Batch) -> Any:
        nonlocal state  # the step eats the state that it is given
        state, metrics = train_step(state, batch)
        return metrics

    rates: dict[str, list[float]] = {"decoded": [], "synthetic": []}
    for _ in range(num_rounds):
        with contextlib.closing(_prefetched(corpus, num_workers, mesh)) as decoded:
            same = next(decoded)
            jax.block_until_ready(step(same))  # compiles, the first time
            rates["decoded"].append(steps_per_second(decoded, step, jax.block_until_ready, seconds=seconds))
        repeated = itertools.repeat(same)
        rates["synthetic"].append(steps_per_second(repeated, step, jax.block_until_ready, seconds=seconds))
    per_second = {name: float(np.median(values)) for name, values in rates.items()}
    return {
        "num_workers": num_workers,
        "batch_size": corpus.batch_size,
        "steps_per_second": per_second,
        "ratio": per_second["decoded"] / per_second["synthetic"],
        "rounds": rates,
    }
