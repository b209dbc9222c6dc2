"""What a model has said of texts, kept on disk: a text that is asked again meets only new videos.

A file for each text, with the contents that it has met. Those that were used longest ago are deleted when all
take too much.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from data_pipelines.terminal_text import printable
from experiments.search.manifest import write_whole
from experiments.search.place import to_stderr

MAX_BYTES = 512 << 20
"""Of all texts of an index: that of 100,000 videos and 8 clips takes 7 MB."""
_UNFINISHED_SECONDS = 3600.0
"""Age of a file that is written no more: its process was killed."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TextScores:
    """Match logits of one text, for the contents that it has met."""

    contents: UInt8[np.ndarray, "n 32"]
    """sha256."""
    logits: Float32[np.ndarray, " n"]
    """Of all clips."""
    clip_logits: Float32[np.ndarray, "n k"]
    """Of each clip alone."""
    notes: tuple[str, ...] = ()
    """What the model does not see of the text as it was meant."""

    def rows(self) -> dict[str, int]:
        """Return the row of each content."""
        return {content.tobytes().hex(): row for row, content in enumerate(self.contents)}

    def only(self, contents: Iterable[str]) -> TextScores:
        """Return those of some contents; the others are no longer in the folder."""
        wanted = set(contents)
        kept = [row for content, row in self.rows().items() if content in wanted]
        return dataclasses.replace(
            self,
            contents=self.contents[kept],
            logits=self.logits[kept],
            clip_logits=self.clip_logits[kept],
        )

    def with_more(self, other: TextScores) -> TextScores:
        """Return these and others."""
        return TextScores(
            contents=np.concatenate([self.contents, other.contents]),
            logits=np.concatenate([self.logits, other.logits]),
            clip_logits=np.concatenate([self.clip_logits, other.clip_logits]),
            notes=other.notes,
        )


def no_scores(num_clips: int) -> TextScores:
    """Return those of a text that has met nothing."""
    return TextScores(
        contents=np.zeros((0, 32), np.uint8),
        logits=np.zeros(0, np.float32),
        clip_logits=np.zeros((0, num_clips), np.float32),
    )


def digests(contents: list[str]) -> UInt8[np.ndarray, "n 32"]:
    """Return contents as `TextScores` has them."""
    return np.frombuffer(bytes.fromhex("".join(contents)), np.uint8).reshape(-1, 32)


class ScoreCache:
    """The scores of an index."""

    def __init__(self, folder: Path, num_clips: int) -> None:
        self._folder, self._num_clips = folder, num_clips
        self._is_unwritable = False
        """Whether that was seen, and said."""

    def get(self, text: str) -> TextScores:
        """Return what is known of a text, which is used by that; of a damaged file nothing."""
        path = self._path(text)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = TextScores(
                    contents=arrays["contents"],
                    logits=arrays["logits"],
                    clip_logits=arrays["clip_logits"],
                    notes=tuple(map(str, arrays["notes"].tolist())),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return no_scores(self._num_clips)
        if not self._is_sound(found):
            return no_scores(self._num_clips)
        with contextlib.suppress(OSError):  # of an index that cannot be written to
            os.utime(path)
        return found

    def _is_sound(self, found: TextScores) -> bool:
        n = len(found.logits)
        shapes = found.contents.shape, found.logits.shape, found.clip_logits.shape
        return shapes == ((n, 32), (n,), (n, self._num_clips)) and found.contents.dtype == np.uint8

    def put(self, text: str, scores: TextScores) -> None:
        """Keep the scores of a text, and delete those used longest ago if all take too much.

        Where they cannot be kept, in an index of somebody else or on a full disk, that is said once.
        """
        if self._is_unwritable:
            return
        try:
            self._put(text, scores)
        except OSError as error:
            self._is_unwritable = True
            to_stderr(f"scores are not kept: {printable(str(error))}")

    def _put(self, text: str, scores: TextScores) -> None:
        buffer = io.BytesIO()
        notes = np.array(scores.notes, np.str_)
        np.savez(
            buffer,
            contents=scores.contents,
            logits=scores.logits,
            clip_logits=scores.clip_logits,
            notes=notes,
        )
        write_whole(self._path(text), buffer.getvalue())
        self._trim()

    def _trim(self) -> None:
        num_bytes, now = 0, time.time()
        for path, state in sorted(self._files(), key=lambda file: -file[1].st_mtime_ns):
            if path.suffix == ".tmp":
                is_over = now - state.st_mtime > _UNFINISHED_SECONDS
            else:
                num_bytes += state.st_size
                is_over = num_bytes > MAX_BYTES
            if is_over:
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for pattern in ("*.npz", ".*.npz.*.tmp"):
            for path in self._folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # another search has deleted it
                    yield path, path.stat()

    def _path(self, text: str) -> Path:
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{name}.npz"
