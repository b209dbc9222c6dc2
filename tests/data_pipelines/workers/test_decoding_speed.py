"""What decoding costs is measured in core-seconds, and turned into advice that holds."""

from __future__ import annotations

import time

import numpy as np
import pytest

from data_pipelines.data_config import DataConfig
from data_pipelines.workers import decoding_speed
from data_pipelines.workers.batch_workers import WatchedBatches
from data_pipelines.workers.decoding_speed import explain_wait
from data_pipelines.workers.heartbeat import decoding

BURNT_SECONDS = 0.03


def burn_two_videos(number: int) -> dict[str, np.ndarray]:
    """Decode two videos that each take some time of a core, and some more in which the core is free."""
    for video in range(2):
        with decoding(f"video-{number}-{video}"):
            end = time.thread_time() + BURNT_SECONDS
            while time.thread_time() < end:
                pass
            time.sleep(0.1)
    return {"number": np.array([number])}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_core_seconds_are_those_of_decoders_at_work(num_workers):
    config = DataConfig(data_dir="nowhere", num_workers=num_workers, num_threads=2, num_prefetch=4)
    batches = WatchedBatches(burn_two_videos, config, start=0, stop=8, batch_bytes=8)
    assert [int(batch["number"][0]) for batch in batches] == list(range(8))
    # Handing over the batch costs a worker a little more, and starting up costs seconds that do not count.
    assert BURNT_SECONDS <= batches.core_seconds_per_video() < 1.5 * BURNT_SECONDS
    batches.close()


def test_nothing_is_known_before_the_first_video():
    config = DataConfig(data_dir="nowhere")
    batches = WatchedBatches(lambda number: {}, config, start=0, stop=0, batch_bytes=8)
    assert batches.core_seconds_per_video() is None
    batches.close()
    assert "just started" in explain_wait(config, None, 10.0)


@pytest.mark.parametrize(
    ("num_workers", "num_cores", "expected"),
    [
        (
            4,
            16,
            "75 videos/s need 9 core(s) (now 4 workers): set --data.num-workers 9, or prepare the data with",
        ),
        (0, 16, "(now 2 threads): set --data.num-workers 9"),
        (4, 8, "75 videos/s need 9 core(s), and there are 8: prepare the data with --storage compact"),
        (9, 16, "but the 9 workers are slower"),
    ],
)
def test_advice_is_what_helps_here(num_workers, num_cores, expected, monkeypatch):
    monkeypatch.setattr(decoding_speed, "num_usable_cores", lambda: num_cores)
    line = explain_wait(DataConfig(data_dir="nowhere", num_workers=num_workers), 0.117, 75.0)
    assert line.startswith(
        "input is the bottleneck: decoding takes 0.12 core-seconds a video, so 75 videos/s"
    )
    assert expected in line
