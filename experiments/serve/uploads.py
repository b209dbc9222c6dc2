"""Videos that are uploaded: written to a private folder under random names, and deleted at the end.

Before: `forms`, which takes a request apart while it comes in; after: `library`, which knows them by id.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import secrets
import threading
from collections.abc import Callable, Set
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data_pipelines.corpus.folder import VIDEO_SUFFIXES
from data_pipelines.terminal_text import printable
from experiments.serve.limits import MAX_NAME_CHARACTERS, MAX_UPLOADING, MAX_UPLOADS
from experiments.serve.reading import looks_like_video
from experiments.serve.refusal import RequestRefused

_NUM_START_BYTES = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownVideo:
    """A video that may be asked about; clients name it by `id` alone."""

    id: str
    name: str
    """For people, whatever it is made of."""
    path: Path
    is_upload: bool = False


class Incoming:
    """A file that is being uploaded."""

    def __init__(self, name: str, path: Path, max_bytes: int) -> None:
        self.name = _short_name(name)
        self.path = path
        suffix = PurePosixPath(self.name).suffix.lower()
        if suffix not in VIDEO_SUFFIXES:
            kinds = ", ".join(sorted(VIDEO_SUFFIXES))
            raise RequestRefused(
                415, f"{printable(self.name)} is not one of the kinds that are taken: {kinds}."
            )
        self.digest = hashlib.sha256()
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._start = b""
        self._file: BinaryIO = path.open("xb")

    def write(self, data: bytes) -> None:
        """Take more of it.

        Raises:
          RequestRefused: it is too large, or no video.
        """
        self._num_bytes += len(data)
        if self._num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        if len(self._start) < _NUM_START_BYTES:
            self._start += data[:_NUM_START_BYTES]
            if len(self._start) >= _NUM_START_BYTES:
                self._check_start()
        self.digest.update(data)
        self._file.write(data)

    def finish(self) -> None:
        """Close the file, all of which is there."""
        self._check_start()
        self._file.close()

    def discard(self) -> None:
        """Delete what has come."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _check_start(self) -> None:
        if not looks_like_video(self._start):
            raise RequestRefused(
                415, f"{printable(self.name)} is no video, image or GIF, whatever its name says."
            )


class Uploads:
    """The newest uploads; any thread may use them."""

    def __init__(self, folder: Path, *, max_bytes: int, in_use: Callable[[], Set[str]] = frozenset) -> None:
        self._folder, self._max_bytes, self._in_use = folder, max_bytes, in_use
        self._kept: collections.OrderedDict[str, KnownVideo] = collections.OrderedDict()
        self._by_content: dict[tuple[str, bytes], KnownVideo] = {}
        self._num_times: collections.Counter[str] = collections.Counter()
        """How often each was sent."""
        self._num_incoming = 0
        self._lock = threading.Lock()

    def begin(self, name: str) -> Incoming:
        """Begin to take a file; `keep` or `drop` follows.

        Raises:
          RequestRefused: another kind of file, or too many at once.
        """
        with self._lock:
            if self._num_incoming >= MAX_UPLOADING:
                raise RequestRefused(
                    503, f"{MAX_UPLOADING} other videos are being uploaded: try again in a moment."
                )
            incoming = Incoming(name, self._folder / secrets.token_hex(16), self._max_bytes)
            self._num_incoming += 1
        return incoming

    def keep(self, incoming: Incoming) -> KnownVideo:
        """Return an upload as a video, the same if it was sent before.

        The one that was used longest ago, and that no question is about which waits, is deleted if there are
        many.
        """
        incoming.finish()
        new = KnownVideo(
            id=secrets.token_hex(8), name=printable(incoming.name), path=incoming.path, is_upload=True
        )
        with self._lock:
            self._num_incoming -= 1
            video = self._by_content.setdefault((incoming.name, incoming.digest.digest()), new)
            self._kept[video.id] = video
            self._kept.move_to_end(video.id)
            self._num_times[video.id] += 1
            if video is not new:
                incoming.path.unlink()
            self._delete_oldest(self._in_use() | {video.id})
        return video

    def _delete_oldest(self, in_use: Set[str]) -> None:
        others = [video for video in self._kept.values() if video.id not in in_use]
        for video in others[: max(0, len(self._kept) - MAX_UPLOADS)]:
            self._delete(video)

    def abandon(self, incoming: Incoming) -> None:
        """Forget a file that did not come, or was refused."""
        incoming.discard()
        with self._lock:
            self._num_incoming -= 1

    def drop(self, video: KnownVideo) -> None:
        """Delete an upload that nothing came of, unless it was sent before."""
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
        """Return an upload, which counts as used now."""
        with self._lock:
            if video_id in self._kept:
                self._kept.move_to_end(video_id)
            return self._kept.get(video_id)

    @property
    def newest_first(self) -> list[KnownVideo]:
        """Those that are there."""
        with self._lock:
            return [*reversed(self._kept.values())]


def too_large(max_bytes: int) -> RequestRefused:
    """Return what is said of an upload beyond the limit."""
    return RequestRefused(
        413, f"The video has more than {max_bytes / 1e6:g} MB: send a shorter one, or raise --max-upload-mb."
    )


def _short_name(name: str) -> str:
    """Return the last part of a name, as browsers send it, with its suffix."""
    last = PurePosixPath(name.replace("\\", "/").replace("\0", "")).name or "video"
    suffix = PurePosixPath(last).suffix[:16]
    stem = last.removesuffix(PurePosixPath(last).suffix)
    return stem[: MAX_NAME_CHARACTERS - len(suffix)] + suffix
