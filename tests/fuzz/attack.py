"""What a worker process does with each broken file: examine it, read frames as its index promises."""

from __future__ import annotations

import dataclasses
import time
import traceback

import numpy as np

from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine
from data_pipelines.decoding.jpeg_frames import is_jpeg_frames, read_jpegs
from data_pipelines.decoding.video import FrameIndex, UnreadableVideo

HIDDEN_DAMAGE = "ok, with hidden damage"
"""A decoder that does not tell of damage may leave pixels as its memory had them: never the same twice."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A broken file, made from (seed, number) alone."""

    number: int
    name: str
    mutations: str
    data: bytes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a file; `problem` says what must not be."""

    verdict: str
    problem: str = ""
    seconds: float = 0.0


def attack(mutant: Mutant) -> Outcome:
    """Examine a file and read frames as its index promises; the function that workers run."""
    begin = time.perf_counter()
    try:
        verdict = _examine_and_read(mutant.data)
    except MemoryError:
        raise
    except Exception:
        return Outcome("exception", traceback.format_exc())
    return Outcome(verdict, seconds=time.perf_counter() - begin)


def _examine_and_read(data: bytes) -> str:
    if is_jpeg_frames(data):
        num_frames = int.from_bytes(data[8:12], "little")
        try:
            read_jpegs(data, np.arange(min(100, num_frames)))
        except UnreadableVideo:
            return "unreadable"
        return "ok"
    examination = examine(data)
    health, index = examination.health, examination.index
    if index is None:
        assert health.verdict == "unreadable", health
        assert health.reason
        return "unreadable"
    times = index.frame_times
    assert len(times) == health.num_frames > 0, health
    assert np.isfinite(times).all()
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()
    assert np.isfinite(index.duration)
    assert index.duration >= times[-1]
    assert (health.verdict == "ok") == (not health.reason), health
    some = np.array([len(times) - 1, 0, len(times) // 2])
    try:
        frames = read_frames(data, some, index)
    except UnreadableVideo as error:
        if health.verdict == "ok":  # which promises them
            raise AssertionError(f"{health} but {error}") from error
        return f"{health.verdict}, frames unreadable"
    assert frames.shape == (3, index.height, index.width, 3), (frames.shape, index)
    if health.verdict == "ok" and not _equals_a_full_decode(data, index):
        return HIDDEN_DAMAGE
    return health.verdict


def _equals_a_full_decode(data: bytes, index: FrameIndex) -> bool:
    """Read a few frames by themselves, which skips and seeks, and all of them, which does not."""
    count = min(len(index.frame_times), 100)
    every = read_frames(data, np.arange(count), index)
    rng = np.random.default_rng(count)
    some = rng.integers(0, count, (3, 3))
    return all(np.array_equal(read_frames(data, wanted, index), every[wanted]) for wanted in some)
