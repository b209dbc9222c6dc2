"""Scores of texts, kept on disk: a text that is searched for again is scored only with new videos.

One file for each text, with the contents that it was scored with. The oldest files are deleted when all
together are too large. `ranking` reads and writes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from clipbert_jax.atomic_files import write_whole
from data_pipelines.terminal_text import printable
from experiments.search.place import to_stderr

MAX_BYTES = 512 << 20
"""Largest size of the scores of all texts; a text with 100,000 videos of 8 clips takes 7 MB."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TextScores:
    """Match logits of one text with the contents that it was scored with."""

    contents: UInt8[np.ndarray, "n 32"]
    """sha256 of each video."""
    logits: Float32[np.ndarray, " n"]
    """Logit of all clips together."""
    clip_logits: Float32[np.ndarray, "n k"]
    """Logit of each clip alone."""
    notes: tuple[str, ...] = ()
    """Remarks on parts of the text that the model cannot read as they were meant."""

    def rows(self) -> dict[str, int]:
        """Return the row of each content."""
        return {content.tobytes().hex(): row for row, content in enumerate(self.contents)}

    def only(self, contents: Iterable[str]) -> TextScores:
        """Return the scores of some contents; the others are no longer in the folder."""
        wanted = set(contents)
        kept = [row for content, row in self.rows().items() if content in wanted]
        return dataclasses.replace(
            self,
            contents=self.contents[kept],
            logits=self.logits[kept],
            clip_logits=self.clip_logits[kept],
        )

    def with_more(self, other: TextScores) -> TextScores:
        """Return these scores and others."""
        return TextScores(
            contents=np.concatenate([self.contents, other.contents]),
            logits=np.concatenate([self.logits, other.logits]),
            clip_logits=np.concatenate([self.clip_logits, other.clip_logits]),
            notes=other.notes,
        )


def no_scores(num_clips: int) -> TextScores:
    """Return the scores of a text that was never searched for."""
    return TextScores(
        contents=np.zeros((0, 32), np.uint8),
        logits=np.zeros(0, np.float32),
        clip_logits=np.zeros((0, num_clips), np.float32),
    )


def digests(contents: list[str]) -> UInt8[np.ndarray, "n 32"]:
    """Return contents in the form of `TextScores`."""
    return np.frombuffer(bytes.fromhex("".join(contents)), np.uint8).reshape(-1, 32)


class ScoreCache:
    """The scores of an index."""

    def __init__(self, folder: Path, num_clips: int) -> None:
        self._folder, self._num_clips = folder, num_clips
        self._is_unwritable = False
        """Whether writing has failed once, which is said once."""

    def get(self, text: str) -> TextScores:
        """Return the known scores of a text; a damaged file counts as missing, and a line says so."""
        path = self._path(text)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = TextScores(
                    contents=arrays["contents"],
                    logits=arrays["logits"],
                    clip_logits=arrays["clip_logits"],
                    notes=tuple(map(str, arrays["notes"].tolist())),
                )
            if self._is_sound(found):
                return found
        except FileNotFoundError:
            return no_scores(self._num_clips)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass
        to_stderr("the known scores of a text are damaged: it is scored again")
        return no_scores(self._num_clips)

    def _is_sound(self, found: TextScores) -> bool:
        n = len(found.logits)
        shapes = found.contents.shape, found.logits.shape, found.clip_logits.shape
        return shapes == ((n, 32), (n,), (n, self._num_clips)) and found.contents.dtype == np.uint8

    def put(self, text: str, scores: TextScores) -> None:
        """Keep the scores of a text; if they cannot be written, say so once and go on."""
        if self._is_unwritable:
            return
        buffer = io.BytesIO()
        np.savez(
            buffer,
            contents=scores.contents,
            logits=scores.logits,
            clip_logits=scores.clip_logits,
            notes=np.array(scores.notes, np.str_),
        )
        try:
            write_whole(self._path(text), buffer.getvalue())
            self._delete_oldest()
        except OSError as error:
            self._is_unwritable = True
            to_stderr(f"scores are not kept: {printable(str(error))}")

    def _delete_oldest(self) -> None:
        num_bytes = 0
        with contextlib.suppress(FileNotFoundError):  # another search has deleted one
            for path in sorted(self._folder.glob("*.npz"), key=_written, reverse=True):
                num_bytes += path.stat().st_size
                if num_bytes > MAX_BYTES:
                    path.unlink(missing_ok=True)

    def _path(self, text: str) -> Path:
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{name}.npz"


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns
