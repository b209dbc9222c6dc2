"""Uploaded videos: files with random names in a private folder, deleted when the server ends.

`forms` hands them over; `library` finds them by id.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Set
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data_pipelines.corpus.folder import VIDEO_SUFFIXES
from data_pipelines.terminal_text import printable
from experiments.serve.limits import MAX_NAME_CHARACTERS, MAX_UPLOADING, MAX_UPLOADS
from experiments.serve.refusal import RequestRefused

_NUM_START_BYTES = 512
_CHUNK_BYTES = 1 << 20

_STARTS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"RIFF",  # AVI, WebP
    b"GIF8",
    b"\x89PNG",
    b"\xff\xd8\xff",  # JPEG
    b"BM",
    b"II*\0",
    b"MM\0*",  # TIFF
    b"II+\0",
    b"MM\0+",
    b"OggS",
    b"FLV",
    b"\0\0\x01",  # MPEG
    b"0&\xb2u",  # ASF, WMV
)
_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"moof")


def looks_like_video(start: bytes) -> bool:
    """Return whether a file begins like one of the formats that are taken.

    FFmpeg also opens lists of other files on this machine, which must not be sent here.
    """
    is_transport_stream = start[:1] == b"G" and start[188:189] == b"G"
    is_timed_transport_stream = start[4:5] == b"G" and start[196:197] == b"G"
    return (
        start.startswith(_STARTS) or start[4:8] in _BOXES or is_transport_stream or is_timed_transport_stream
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownVideo:
    """A video that can be asked about; clients name it by its id."""

    id: str
    name: str
    """Name on pages."""
    path: Path
    is_upload: bool = False


class Uploads:
    """The newest uploads; any thread may use them."""

    def __init__(self, folder: Path, *, max_bytes: int, in_use: Callable[[], Set[str]] = frozenset) -> None:
        self._folder, self._max_bytes, self._in_use = folder, max_bytes, in_use
        self._kept: collections.OrderedDict[str, KnownVideo] = collections.OrderedDict()
        self._by_content: dict[tuple[str, bytes], KnownVideo] = {}
        self._num_times: collections.Counter[str] = collections.Counter()
        """Number of times that each was sent."""
        self._num_coming_in = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def coming_in(self) -> Iterator[None]:
        """Count a form that may bring a video while it comes in.

        Raises:
          RequestRefused: too many come in at once.
        """
        with self._lock:
            if self._num_coming_in >= MAX_UPLOADING:
                raise RequestRefused(
                    503, f"{MAX_UPLOADING} other videos are being uploaded: try again in a moment."
                )
            self._num_coming_in += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_coming_in -= 1

    def keep(self, name: str, file: BinaryIO) -> KnownVideo:
        """Return a file that was sent as a video; the same one if it was sent before.

        Uploads that no waiting question is about are deleted when there are too many, the oldest first.

        Raises:
          RequestRefused: the file is too large or not a video.
        """
        name = _short_name(name)
        self._check(name, file)
        path = self._folder / secrets.token_hex(16)
        new = KnownVideo(id=secrets.token_hex(8), name=printable(name), path=path, is_upload=True)
        digest = _copy(file, path)
        with self._lock:
            video = self._by_content.setdefault((name, digest), new)
            if video is not new:
                path.unlink()
            self._kept[video.id] = video
            self._kept.move_to_end(video.id)
            self._num_times[video.id] += 1
            self._delete_oldest(self._in_use() | {video.id})
        return video

    def _check(self, name: str, file: BinaryIO) -> None:
        if PurePosixPath(name).suffix.lower() not in VIDEO_SUFFIXES:
            kinds = ", ".join(sorted(VIDEO_SUFFIXES))
            raise RequestRefused(415, f"{printable(name)} is not one of the kinds that are taken: {kinds}.")
        if file.seek(0, 2) > self._max_bytes:
            raise too_large(self._max_bytes)
        file.seek(0)
        if not looks_like_video(file.read(_NUM_START_BYTES)):
            raise RequestRefused(
                415, f"{printable(name)} is not a video, image or GIF, whatever its name says."
            )
        file.seek(0)

    def _delete_oldest(self, in_use: Set[str]) -> None:
        others = [video for video in self._kept.values() if video.id not in in_use]
        for video in others[: max(0, len(self._kept) - MAX_UPLOADS)]:
            self._delete(video)

    def drop(self, video: KnownVideo) -> None:
        """Delete an upload whose question was refused, unless it was sent before."""
        with self._lock:
            self._num_times[video.id] -= 1
            if self._num_times[video.id] <= 0:
                self._delete(video)

    def _delete(self, video: KnownVideo) -> None:
        self._kept.pop(video.id, None)
        self._num_times.pop(video.id, None)
        self._by_content = {key: one for key, one in self._by_content.items() if one != video}
        video.path.unlink(missing_ok=True)

    def find(self, video_id: str) -> KnownVideo | None:
        """Return an upload, which becomes the newest by that."""
        with self._lock:
            if video_id in self._kept:
                self._kept.move_to_end(video_id)
            return self._kept.get(video_id)

    @property
    def newest_first(self) -> list[KnownVideo]:
        """All uploads that are kept."""
        with self._lock:
            return [*reversed(self._kept.values())]


def _copy(file: BinaryIO, path: Path) -> bytes:
    """Write a file to a new path, and return its sha256."""
    digest = hashlib.sha256()
    try:
        with path.open("xb") as copy:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
    except OSError:  # the disk is full
        path.unlink(missing_ok=True)
        raise
    return digest.digest()


def too_large(max_bytes: int) -> RequestRefused:
    """Return the refusal of an upload beyond the limit."""
    return RequestRefused(
        413, f"The video has more than {max_bytes / 1e6:g} MB: send a shorter one, or raise --max-upload-mb."
    )


def _short_name(name: str) -> str:
    """Return the last part of a name that a browser sent, shortened but with its suffix."""
    last = PurePosixPath(name.replace("\\", "/").replace("\0", "")).name or "video"
    suffix = PurePosixPath(last).suffix[:16]
    stem = last.removesuffix(PurePosixPath(last).suffix)
    return stem[: MAX_NAME_CHARACTERS - len(suffix)] + suffix
