"""Examines every video of a source or a corpus, without changing any; `clipbert doctor` prints it."""

from __future__ import annotations

import collections
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import UserError
from data_pipelines.corpus.video_source import VideoSource
from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine
from data_pipelines.decoding.jpeg_frames import is_jpeg_frames
from data_pipelines.decoding.video import FrameIndex, Health, UnreadableVideo, Video, as_stored
from data_pipelines.terminal_text import printable
from data_pipelines.workers.isolation import Failure, Isolated, file_time_limit

if TYPE_CHECKING:
    from data_pipelines.corpus.reader import Corpus


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Findings about one file or record."""

    name: str
    num_bytes: int
    health: Health
    width: int = 0
    """Width in pixels, as displayed."""
    height: int = 0
    rotation: int = 0
    is_reflected: bool = False
    duration: float = 0.0
    """Seconds."""
    num_key_frames: int = 0
    decode_seconds: float = 0.0
    """Time for a full decode and the trials of random access."""

    def fields(self) -> dict[str, Any]:
        """Return the columns of the table that `write_table` writes."""
        health = self.health
        return {
            "name": self.name,
            "verdict": health.verdict,
            "reason": health.reason,
            "duration_seconds": round(self.duration, 6),
            "width": self.width,
            "height": self.height,
            "fps": round(health.fps, 3),
            "is_variable_rate": health.is_variable_rate,
            "rotation": self.rotation,
            "is_reflected": self.is_reflected,
            "start_time_seconds": round(health.start_time, 6),
            "has_duration": health.has_duration,
            "num_frames": health.num_frames,
            "num_declared_frames": health.num_declared_frames,
            "num_key_frames": self.num_key_frames,
            "damaged_ranges_seconds": [[round(a, 3), round(b, 3)] for a, b in health.damaged_ranges],
            "decode_seconds": round(self.decode_seconds, 3),
            "container": health.container,
            "codec": health.codec,
            "pixel_format": health.pixel_format,
            "num_bytes": self.num_bytes,
            "notes": list(health.notes),
        }


@dataclasses.dataclass(frozen=True)
class OneFile:
    """A single file as a source."""

    path: Path

    @property
    def names(self) -> tuple[str, ...]:
        """Return its name."""
        return (self.path.name,)

    def size(self, name: str) -> int:
        """Return its bytes."""
        return self.path.stat().st_size

    def read(self, name: str) -> bytes:
        """Return its content."""
        return self.path.read_bytes()


def examine_source(
    source: VideoSource, *, num_workers: int, decode_timeout: float | None = None
) -> Iterator[Diagnosis]:
    """Yield a diagnosis of each file of a source, in order, whatever the files do to a decoder.

    Args:
      source: the files.
      num_workers: number of processes that decode.
      decode_timeout: time limit for one file in seconds; None sets it by its size and its frames.
    """
    items = ((source, name) for name in source.names)
    return _examined(
        _examine_file, items, lambda item: (item[1], source.size(item[1])), num_workers, decode_timeout
    )


def examine_corpus(
    corpus: Corpus, *, num_workers: int, decode_timeout: float | None = None
) -> Iterator[Diagnosis]:
    """Yield a diagnosis of each stored video; a video in a damaged shard is unreadable."""
    videos = (_read(corpus, video_id) for video_id in corpus.ids)
    return examine_records(videos, num_workers=num_workers, decode_timeout=decode_timeout)


def _read(corpus: Corpus, video_id: str) -> Video | UnreadableVideo:
    try:
        return corpus.read(video_id)
    except UnreadableVideo as error:
        return error


def examine_records(
    videos: Iterable[Video | UnreadableVideo], *, num_workers: int, decode_timeout: float | None = None
) -> Iterator[Diagnosis]:
    """Yield a diagnosis of each stored video: whether it decodes and agrees with its stored index.

    An error in `videos` stands for a video that could not be read.
    """
    return _examined(examine_record, videos, _name_and_size, num_workers, decode_timeout)


def _name_and_size(video: Video | UnreadableVideo) -> tuple[str, int]:
    return (video.path, 0) if isinstance(video, UnreadableVideo) else (video.video_id, len(video.data))


def _examined(
    function: Callable[[Any], Diagnosis],
    items: Iterable[Any],
    name_and_size: Callable[[Any], tuple[str, int]],
    num_workers: int,
    decode_timeout: float | None,
) -> Iterator[Diagnosis]:
    """Yield the function's result for each item; an item that ends its worker is unreadable."""
    taken: collections.deque[tuple[str, int]] = collections.deque()

    def noted() -> Iterator[Any]:
        for item in items:
            taken.append(name_and_size(item))
            yield item

    with Isolated(num_workers) as isolated:
        for result in isolated.map(
            function, noted(), time_limit=lambda item: file_time_limit(name_and_size(item)[1], decode_timeout)
        ):
            name, num_bytes = taken.popleft()
            yield _failed(name, num_bytes, result.reason) if isinstance(result, Failure) else result


def _examine_file(item: tuple[VideoSource, str]) -> Diagnosis:
    source, name = item
    try:
        data = source.read(name)
    except (OSError, UserError) as error:
        return Diagnosis(name=name, num_bytes=0, health=Health(verdict="unreadable", reason=str(error)))
    begin = time.perf_counter()
    examination = examine(data)
    seconds = time.perf_counter() - begin
    return _finding(name, len(data), examination.health, examination.index, seconds)


def examine_record(video: Video | UnreadableVideo) -> Diagnosis:
    """Decode a stored video again; it is `damaged` if it differs from its stored index."""
    if isinstance(video, UnreadableVideo):
        return _failed(video.path, 0, video.reason)
    begin = time.perf_counter()
    if is_jpeg_frames(video.data):
        problem = _undecodable(video)
    else:
        examination = examine(video.data)
        problem = examination.health.reason
        if examination.index is not None and examination.health.verdict == video.health.verdict:
            different = _differences(examination.index, video.index)
            if different:  # data prepared by earlier versions have the shape that is stored
                different = _differences(as_stored(examination.index), video.index)
            problem = f"its bytes and its stored {', '.join(different)} differ" if different else ""
    health = video.health
    if problem:
        health = dataclasses.replace(health, verdict="damaged", reason=problem)
    return _finding(video.video_id, len(video.data), health, video.index, time.perf_counter() - begin)


def _undecodable(video: Video) -> str:
    count = len(video.index.frame_times)
    portion = max(1, 2**26 // (video.index.width * video.index.height * 3))
    try:
        for start in range(0, count, portion):
            read_frames(video.data, np.arange(start, min(start + portion, count)), video.index)
    except UnreadableVideo as error:
        return error.reason
    return ""


def _differences(examined: FrameIndex, stored: FrameIndex) -> list[str]:
    """Return the fields that differ, without the duration, which a re-encoded video keeps of its original."""
    names = [field.name for field in dataclasses.fields(FrameIndex) if field.name != "duration"]
    return [name for name in names if not np.array_equal(getattr(examined, name), getattr(stored, name))]


def _finding(
    name: str, num_bytes: int, health: Health, index: FrameIndex | None, seconds: float
) -> Diagnosis:
    if index is None:
        return Diagnosis(name=name, num_bytes=num_bytes, health=health, decode_seconds=seconds)
    return Diagnosis(
        name=name,
        num_bytes=num_bytes,
        health=health,
        width=index.width,
        height=index.height,
        rotation=index.rotation,
        is_reflected=index.is_reflected,
        duration=index.duration,
        num_key_frames=len(index.key_frames),
        decode_seconds=seconds,
    )


def _failed(name: str, num_bytes: int, reason: str) -> Diagnosis:
    return Diagnosis(name=name, num_bytes=num_bytes, health=Health(verdict="unreadable", reason=reason))


def write_table(findings: Iterable[Diagnosis], path: Path) -> None:
    """Write the full table: JSON if the path ends in .json, else tab-separated values with a header line."""
    rows = [finding.fields() for finding in findings]
    if path.suffix.lower() == ".json":
        text = json.dumps(rows, indent=1) + "\n"
    else:
        lines = [list(rows[0]), *(map(_cell, row.values()) for row in rows)] if rows else []
        text = "".join("\t".join(line) + "\n" for line in lines)
    write_whole(path, text)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(_cell(item) if isinstance(item, str) else f"{item[0]}-{item[1]}" for item in value)
    return printable(str(value))
