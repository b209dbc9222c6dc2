"""Where an index keeps what is encoded: for each content a file of visual tokens and one of pictures.

    videos/ab/abcd...npy    visual tokens, float16 [k v d]
    videos/ab/abcd...strip  the first frame of each clip, side by side: a JPEG that no search takes for one

Named after the content, so that a file that is moved or copied need not be encoded again. Of a kill at any
moment files are left that are whole. What is damaged all the same, as by a disk that failed, is encoded again
before it is needed.
"""

from __future__ import annotations

import collections
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Set
from pathlib import Path

import numpy as np
from jaxtyping import Float16, UInt8

from clipbert_jax.errors import UserError
from experiments.search.manifest import write_whole
from experiments.search.reading import split_pictures

_NAME = re.compile(r"\.?(?P<content>[0-9a-f]{64})\.(npy|strip)(?P<unfinished>\.\d+\.tmp)?")


_END_OF_JPEG = b"\xff\xd9"


class TokenStore:
    """Tokens and pictures by content; the tokens of a small index stay in memory."""

    def __init__(self, folder: Path, *, memory_bytes: int) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._in_memory: dict[str, np.ndarray] = {}

    def put(self, content: str, tokens: Float16[np.ndarray, "k v d"], pictures: bytes) -> None:
        """Keep what was made of a content; when its tokens are there, so is the rest."""
        buffer = io.BytesIO()
        np.save(buffer, tokens)
        # A picture that is cut off is seen, one that is wrong harms nobody: the disk need not be waited for.
        write_whole(self._path(content, "strip"), pictures, survives_power_failure=False)
        write_whole(self._path(content, "npy"), buffer.getvalue())
        self._remember(content, tokens)

    def tokens(self, content: str) -> Float16[np.ndarray, "k v d"]:
        """Return the tokens of a content.

        Raises:
          UserError: they are gone or damaged.
        """
        if (tokens := self._in_memory.get(content)) is None:
            try:
                tokens = np.load(self._path(content, "npy"), allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise self._damaged(error) from error
            self._remember(content, tokens)
        return tokens

    def pictures(self, content: str, num_clips: int) -> UInt8[np.ndarray, "k h w 3"]:
        """Return a picture of each clip, or none: a video without its pictures is found all the same."""
        try:
            return split_pictures(self._path(content, "strip").read_bytes(), num_clips)
        except (OSError, ValueError):
            return np.zeros((0, 0, 0, 3), np.uint8)

    def damaged(self, contents: Collection[str], num_clips: int) -> set[str]:
        """Return the contents of which tokens or pictures are gone, cut off or of another shape.

        What is of the right size is not read: that would take as long as the search.
        """
        without_pictures = {content for content in contents if not self._has_pictures(content)}
        return without_pictures | self.without_tokens(contents, num_clips)

    def without_tokens(self, contents: Iterable[str], num_clips: int) -> set[str]:
        """Return the contents that cannot be searched, as `damaged` but whatever their pictures are."""
        shapes = {content: self._shape(content, num_clips) for content in contents}
        counts = collections.Counter(shape for shape in shapes.values() if shape is not None)
        usual = counts.most_common(1)[0][0] if counts else None
        return {content for content, shape in shapes.items() if shape is None or shape != usual}

    def _shape(self, content: str, num_clips: int) -> tuple[int, ...] | None:
        """Return the shape of the tokens; None if they are not as `put` has left them."""
        try:
            tokens = self._in_memory.get(content)
            if tokens is None:
                tokens = np.load(self._path(content, "npy"), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        is_sound = tokens.dtype == np.float16 and tokens.ndim == 3 and len(tokens) == num_clips
        return tokens.shape if is_sound else None

    def _has_pictures(self, content: str) -> bool:
        try:
            with self._path(content, "strip").open("rb") as strip:
                strip.seek(-len(_END_OF_JPEG), os.SEEK_END)
                return strip.read() == _END_OF_JPEG
        except (OSError, ValueError):
            return False

    def forget(self, contents: Iterable[str]) -> None:
        """Take no content from memory any more: it will be written anew."""
        for content in self._in_memory.keys() & set(contents):
            self._memory_bytes += self._in_memory.pop(content).nbytes

    def keep_only(self, contents: Set[str]) -> None:
        """Delete what was made of other contents, and what a kill has left; nobody may write meanwhile."""
        self.forget(self._in_memory.keys() - contents)
        for file in self._files():
            found = _NAME.fullmatch(file.name)
            if found and (found["unfinished"] or found["content"] not in contents):
                os.unlink(file)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        if not self._folder.is_dir():
            return
        with os.scandir(self._folder) as folders:
            for folder in folders:
                if folder.is_dir(follow_symlinks=False):
                    with os.scandir(folder) as files:
                        yield from [*files]

    def _remember(self, content: str, tokens: np.ndarray) -> None:
        """Keep tokens in memory while there is room; each search reads all, so none is better to keep."""
        if self._memory_bytes >= tokens.nbytes:
            self._in_memory[content] = tokens
            self._memory_bytes -= tokens.nbytes

    def _path(self, content: str, suffix: str) -> Path:
        return self._folder / content[:2] / f"{content}.{suffix}"

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"the index is damaged ({error}): delete {self._folder.parent}, and the next search makes it anew"
        )
