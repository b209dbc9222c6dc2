"""Where an index keeps what is encoded: for each content a file of visual tokens and one of pictures.

    videos/ab/abcd...npy    visual tokens, float16 [k v d]
    videos/ab/abcd...strip  the first frame of each clip, side by side: a JPEG that no search takes for one

Named after the content, so that a file that is moved or copied need not be encoded again. Of a kill at any
moment files are left that are whole.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Set
from pathlib import Path

import numpy as np
from jaxtyping import Float16, UInt8

from clipbert_jax.errors import UserError
from experiments.search.manifest import write_whole
from experiments.search.reading import split_pictures

_NAME = re.compile(r"\.?(?P<content>[0-9a-f]{64})\.(npy|strip)(?P<unfinished>\.\d+\.tmp)?")


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
        write_whole(self._path(content, "strip"), pictures)
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
        """Return a picture of each clip.

        Raises:
          UserError: they are gone or damaged.
        """
        try:
            return split_pictures(self._path(content, "strip").read_bytes(), num_clips)
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error

    def keep_only(self, contents: Set[str]) -> None:
        """Delete what was made of other contents, and what a kill has left; nobody may write meanwhile."""
        for name in [*(self._in_memory.keys() - contents)]:
            self._memory_bytes += self._in_memory.pop(name).nbytes
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
