"""Encodes the new files of a folder, for `index`: workers read them, the model makes tokens of them.

A file that crashes or hangs its worker costs nothing but its own outcome.
"""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float16, UInt8

from data_pipelines.clips import VideoClips
from data_pipelines.workers.isolation import Failure, Isolated, file_time_limit
from experiments.search.manifest import ManifestEntry
from experiments.search.options import IndexOptions
from experiments.search.reading import ClipRequest, Unreadable, read_clips

if TYPE_CHECKING:
    import jax

    from experiments.runs.load_run import Run

_NEEDED_MORE = "needed more than "
"""Start of the reason that `isolation` gives when a worker reached its memory limit."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncodedVideo:
    """A file that was read and encoded."""

    name: str
    entry: ManifestEntry
    tokens: Float16[np.ndarray, "k v d"]
    pictures: UInt8[np.ndarray, "k h w 3"]
    """First frame of each clip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotEncoded:
    """A file that could not be read."""

    name: str
    entry: ManifestEntry
    reason: str
    may_pass: bool
    """Whether the machine may be the cause, so that the next search tries again."""


_Batch = list[tuple[str, ManifestEntry, VideoClips]]


def encode(
    files: Iterable[tuple[str, ManifestEntry]], run: Run, folder: Path, options: IndexOptions
) -> Iterator[EncodedVideo | NotEncoded]:
    """Yield the outcome of each file; the device encodes a batch while the next one is read."""
    batch: _Batch = []
    under_way: Iterator[EncodedVideo] | None = None
    for name, entry, outcome in _outcomes(files, run, folder, options):
        if isinstance(outcome, VideoClips):
            batch.append((name, entry, outcome))
        else:
            yield _not_encoded(name, entry, outcome)
        if len(batch) == options.batch_size:
            dispatched = _dispatched(run, batch, options.batch_size)
            yield from under_way or ()
            under_way, batch = dispatched, []
    # The last batch takes a shape that is compiled already, or a small one.
    size = num_rows(len(batch), options.batch_size) if under_way is None else options.batch_size
    dispatched = _dispatched(run, batch, size) if batch else iter(())
    yield from under_way or ()
    yield from dispatched


def num_rows(count: int, most: int) -> int:
    """Return the smallest power of two that is at least `count`, but at most `most`."""
    return min(most, 1 << max(0, count - 1).bit_length())


def _dispatched(run: Run, batch: _Batch, size: int) -> Iterator[EncodedVideo]:
    """Start to encode a batch of this many rows; the result waits for the device when it is iterated."""
    frames = np.zeros((size, *batch[0][2].frames.shape), np.uint8)
    for row, (_, _, clips) in enumerate(batch):
        frames[row] = clips.frames
    return _encoded(batch, run.scorer.encode(frames))


def _encoded(batch: _Batch, tokens: jax.Array) -> Iterator[EncodedVideo]:
    for (name, entry, clips), of_video in zip(batch, np.asarray(tokens), strict=False):
        spans = tuple((round(float(times[0]), 3), round(float(times[-1]), 3)) for times in clips.times)
        yield EncodedVideo(
            name=name,
            entry=dataclasses.replace(entry, clip_seconds=spans),
            tokens=of_video.astype(np.float16),
            pictures=clips.shown[:, 0],
        )


def _not_encoded(name: str, entry: ManifestEntry, outcome: Unreadable | Failure) -> NotEncoded:
    reason = outcome.reason
    if reason.startswith(_NEEDED_MORE):
        reason += ": raise --worker-memory-gib and search with --retry"
    may_pass = isinstance(outcome, Failure) and outcome.may_pass
    return NotEncoded(name=name, entry=entry, reason=reason, may_pass=may_pass)


def _outcomes(
    files: Iterable[tuple[str, ManifestEntry]], run: Run, folder: Path, options: IndexOptions
) -> Iterator[tuple[str, ManifestEntry, VideoClips | Unreadable | Failure]]:
    given: collections.deque[tuple[str, ManifestEntry]] = collections.deque()

    def requests() -> Iterator[ClipRequest]:
        for name, entry in files:
            given.append((name, entry))
            yield ClipRequest(
                path=Path(os.path.abspath(folder / name)),
                name=name,
                state=entry.state,
                config=run.experiment.data,
                num_clips=options.num_clips,
            )

    for outcome in _read_all(requests(), options):
        yield *given.popleft(), outcome


def _read_all(
    requests: Iterator[ClipRequest], options: IndexOptions
) -> Iterator[VideoClips | Unreadable | Failure]:
    if options.num_workers == 0:
        yield from map(_read_here, requests)
        return
    with Isolated(options.num_workers, memory_limit_gib=options.worker_memory_gib) as isolated:
        yield from isolated.map(
            read_clips,
            requests,
            time_limit=lambda request: file_time_limit(request.state.size, options.decode_timeout),
        )


def _read_here(request: ClipRequest) -> VideoClips | Unreadable | Failure:
    try:
        return read_clips(request)
    except MemoryError:
        return Failure("does not fit into the memory of this process", may_pass=True)
