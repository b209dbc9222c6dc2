"""Workers that die, are stuck or want too much: noticed, named, and where asked for started again."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.data_config import DataConfig
from data_pipelines.workers import batch_workers as workers
from data_pipelines.workers.batch_workers import WatchedBatches, check_shared_memory
from data_pipelines.workers.heartbeat import decoding

STOP = 8


@dataclasses.dataclass(frozen=True)
class MakeBatch:
    """One video per batch. What is at `number` happens `times` times, counted in a file."""

    folder: str
    number: int
    what: str
    times: int = 1

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        with decoding(f"video-{number}"):
            time.sleep(0.02)
            if number == self.number:
                self._happen()
        (Path(self.folder) / f"done-{number}").touch()
        return {"number": np.array([number])}

    def _happen(self) -> None:
        marks = Path(self.folder) / "marks"
        with marks.open("a") as file:
            file.write("x")
        if len(marks.read_text()) > self.times:
            return
        match self.what:
            case "hang":
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # as native code would
                time.sleep(3600)
            case "crash":
                self._wait_until_taken()
                signal.raise_signal(signal.SIGSEGV)  # in this thread, as a decoder would
            case "killed":
                self._wait_until_taken()
                os.kill(os.getpid(), signal.SIGKILL)
            case "greedy":
                np.ones(3 * 2**27)
            case "slow":
                time.sleep(1.0)

    def _wait_until_taken(self) -> None:
        """What workers are still making, or have not handed over, is lost when one of them dies."""
        while not (Path(self.folder) / "taken").exists():
            time.sleep(0.01)


def batches_of(make_batch: Any, *, start: int = 0, **options) -> WatchedBatches:
    options = {"num_workers": 1, "decode_timeout_seconds": 3.0, "num_prefetch": 1, **options}
    config = DataConfig(data_dir="nowhere", **options)
    return WatchedBatches(make_batch, config, start=start, stop=STOP, batch_bytes=8)


def numbers_of(batches: WatchedBatches) -> list[int]:
    try:
        return [int(batch["number"][0]) for batch in batches]
    finally:
        batches.close()


@pytest.mark.parametrize("num_workers", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_batches_come_in_order(tmp_path, num_workers):
    batches = batches_of(MakeBatch(str(tmp_path), -1, ""), num_workers=num_workers, start=2)
    assert numbers_of(batches) == list(range(2, STOP))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "killed",
            r"worker died \(signal 9, SIGKILL\) while .* video-3: .* --data.worker-memory-gib",
        ),
        (
            "crash",
            r"worker died \(signal 11, SIGSEGV\) while it decoded the video video-3: the decoder crashed",
        ),
    ],
)
def test_a_worker_that_dies_is_an_error_in_words(tmp_path, what, message):
    batches = batches_of(MakeBatch(str(tmp_path), 3, what), num_workers=2, decode_timeout_seconds=60.0)
    assert [int(next(batches)["number"][0]) for _ in range(3)] == [0, 1, 2]
    (tmp_path / "taken").touch()
    start = time.monotonic()
    with pytest.raises(UserError, match=message):
        next(batches)
    with pytest.raises(UserError, match=message):  # and not the batch after it
        next(batches)
    batches.close()
    assert time.monotonic() - start < 50


class DiesWhenLoaded:
    """Ends a worker before it has begun."""

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        raise AssertionError(number)

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_a_worker_that_dies_at_its_start_is_an_error_in_words():
    batches = batches_of(DiesWhenLoaded())
    with pytest.raises(UserError, match=r"a decoding worker died \(exit code 3\); .* above"):
        next(batches)
    batches.close()


def test_after_an_error_in_a_thread_no_batch_is_passed_over():
    def make_batch(number: int) -> dict[str, np.ndarray]:
        if number == 1:
            raise UserError("no batch 1")
        return {"number": np.array([number])}

    batches = batches_of(make_batch, num_workers=0)
    assert next(batches)["number"] == 0
    for _ in range(2):
        with pytest.raises(UserError, match="no batch 1"):
            next(batches)
    batches.close()


def test_a_worker_that_is_stuck_is_started_again_at_the_same_batch(tmp_path, caplog):
    start = time.monotonic()
    assert numbers_of(batches_of(MakeBatch(str(tmp_path), 3, "hang"), num_workers=2)) == list(range(STOP))
    assert time.monotonic() - start < 100
    assert "stuck in the video video-3" in caplog.text


def test_a_video_that_is_stuck_again_is_named(tmp_path):
    batches = batches_of(MakeBatch(str(tmp_path), 1, "hang", times=2), decode_timeout_seconds=1.0)
    with pytest.raises(UserError, match=r"the video video-1 takes longer than 1 s, for the second time"):
        numbers_of(batches)


def test_stuck_workers_end_the_run_if_asked_to(tmp_path):
    batches = batches_of(MakeBatch(str(tmp_path), 1, "hang"), decode_timeout_seconds=1.0, on_stuck="stop")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"the video video-1 takes longer than 1 s: remove it"):
        numbers_of(batches)
    assert time.monotonic() - start < 50


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_slow_consumer_is_no_stuck_worker(tmp_path, num_workers):
    options = {"decode_timeout_seconds": 0.5, "on_stuck": "stop", "num_workers": num_workers}
    batches = batches_of(MakeBatch(str(tmp_path), -1, ""), **options)
    numbers = []
    for batch in batches:
        numbers.append(int(batch["number"][0]))
        time.sleep(0.8 if len(numbers) < 4 else 0.0)
    batches.close()
    assert numbers == list(range(STOP))


def test_many_slow_videos_of_a_batch_are_not_stuck(tmp_path):
    """The limit is for one video."""
    batches = batches_of(MakeBatch(str(tmp_path), 2, "slow"), decode_timeout_seconds=2.0)
    assert numbers_of(batches) == list(range(STOP))


def test_memory_of_a_worker_is_bounded(tmp_path):
    greedy = MakeBatch(str(tmp_path), 2, "greedy")
    with pytest.raises(MemoryError):
        numbers_of(batches_of(greedy, worker_memory_gib=1.0))
    (tmp_path / "marks").unlink()
    assert numbers_of(batches_of(greedy, worker_memory_gib=4.0)) == list(range(STOP))


def test_too_little_shared_memory_is_said_at_the_start(monkeypatch):
    config = DataConfig(data_dir="nowhere", num_workers=3, num_prefetch=6)
    values = {"f_bavail": 19 * 100, "f_frsize": 1024}
    monkeypatch.setattr(workers.os, "statvfs", lambda path: type("Status", (), values)())
    check_shared_memory(config, 100 * 1024)
    with pytest.raises(UserError, match=r"3 workers with --data.num-prefetch 6 need .* lower .*--shm-size"):
        check_shared_memory(config, 101 * 1024)
    check_shared_memory(dataclasses.replace(config, num_workers=0), 101 * 1024)


def test_a_stuck_thread_ends_the_program(tmp_path):
    """Threads cannot be ended, so only the program can; it must not wait for them."""
    script = tmp_path / "stuck.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            import numpy as np
            from clipbert_jax.errors import UserError
            from data_pipelines.data_config import DataConfig
            from data_pipelines.workers.heartbeat import decoding
            from data_pipelines.workers.batch_workers import WatchedBatches
            def make(number):
                with decoding(f"video-{number}"):
                    time.sleep(3600 if number == 2 else 0)
                return {"number": np.array([number])}
            config = DataConfig(data_dir="nowhere", decode_timeout_seconds=1.0)
            batches = WatchedBatches(make, config, start=0, stop=6, batch_bytes=8)
            try:
                for batch in batches:
                    print(batch["number"][0])
            except UserError as error:
                print(error)
                batches.close()
                sys.exit(2)
            """
        )
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("0\n1\nreading and decoding the video video-2 takes longer than 1 s")
