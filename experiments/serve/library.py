"""The videos that can be asked about: those in the folder, and those uploaded.

A request names a video by an id from here, never by a path, so nothing that a client sends becomes part of a
path.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

from data_pipelines.terminal_text import printable
from experiments.search.folder import scan
from experiments.serve.refusal import RequestRefused
from experiments.serve.uploads import KnownVideo, Uploads

_MAX_AGE_SECONDS = 3.0
"""Age of the list after which the folder is looked through again."""
LEADS_OUT = "a link to a file outside the folder"


class Library:
    """All videos by id; any thread may ask."""

    def __init__(self, folder: Path | None, uploads: Uploads, *, left_out: Path | None = None) -> None:
        self.folder, self.uploads = folder, uploads
        self.problems: dict[str, str] = {}
        """Files that are left out, with reasons."""
        self._left_out = left_out
        self._by_id: dict[str, KnownVideo] = {}
        self._looked = float("-inf")
        self._lock = threading.Lock()

    def refresh(self, *, max_age: float = _MAX_AGE_SECONDS) -> None:
        """Look through the folder, unless the list is new."""
        with self._lock:
            if self.folder is None or time.monotonic() - self._looked < max_age:
                return
            found = scan(self.folder, left_out=self._left_out or self.folder / ".clipbert_index")
            problems = {printable(name): printable(reason) for name, reason in found.problems.items()}
            by_id = {}
            for name in found.files:
                path = self.folder / name
                if os.path.islink(path) and self._resolved(path) is None:
                    problems[printable(name)] = LEADS_OUT
                    continue
                by_id[id_of(name)] = KnownVideo(id=id_of(name), name=printable(name), path=path)
            self._by_id, self.problems, self._looked = by_id, problems, time.monotonic()

    def find(self, video_id: str) -> KnownVideo:
        """Return a video.

        Raises:
          RequestRefused: there is no video of this id, or it has become a link to a file outside the folder.
        """
        video = self._by_id.get(video_id) or self.uploads.find(video_id)
        if video is None or not (video.is_upload or self._resolved(video.path)):
            raise _no_video()
        return video

    def opened(self, video: KnownVideo) -> tuple[Path, os.stat_result]:
        """Return the path to read a video from, without links, and its state.

        Raises:
          RequestRefused: the video is gone, leads out of the folder, or cannot be read.
        """
        path = video.path if video.is_upload else self._resolved(video.path)
        if path is None:
            raise _no_video()
        try:
            return path, path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _no_video() from error
        except OSError as error:
            raise RequestRefused(422, f"{video.name} cannot be read: {error.strerror}.") from error

    def named(self, name: str) -> KnownVideo | None:
        """Return the video of a file, by its name below the folder."""
        return self._by_id.get(id_of(name))

    def look_for(self, part: str, most: int) -> tuple[list[KnownVideo], int]:
        """Return at most `most` videos of the folder with this in their names, and how many there are."""
        wanted = part.casefold().strip()
        found = [video for video in self._by_id.values() if wanted in video.name.casefold()]
        return found[:most], len(found)

    def _resolved(self, path: Path) -> Path | None:
        """Return the path of a file without links; None if it is gone or leads out of the folder."""
        assert self.folder is not None, "there are videos of a folder"
        try:
            resolved = path.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: links that lead to each other, before Python 3.13
            return None
        return resolved if resolved.is_relative_to(self.folder.resolve()) else None


def _no_video() -> RequestRefused:
    return RequestRefused(404, "There is no such video any more: choose another one.")


def id_of(name: str) -> str:
    """Return the id of a file below the folder, the same at every start so that addresses stay valid."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
