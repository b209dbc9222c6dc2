"""Tokens and pictures of the videos of an index: for each content one file of either kind.

    videos/ab/abcd...npy    visual tokens, float16 [k v d]
    videos/ab/abcd...strip  the first frame of each clip, side by side (a JPEG, not named .jpg)

Files are named after the content, so a video that is moved or copied is not encoded again. `index` writes
them, `ranking` reads them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Set
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float16, UInt8

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import UserError
from experiments.reports.page import jpeg_bytes

_NAME = re.compile(r"\.?(?P<content>[0-9a-f]{64})\.(npy|strip)(?P<unfinished>\.[0-9a-f]+\.tmp)?")


class DamagedIndexError(UserError):
    """Tokens or pictures of an index are missing or broken."""

    def __init__(self, root: Path, content: str, reason: str) -> None:
        super().__init__(f"the index {root} is damaged ({reason}): delete it, then search again")
        self.content, self.reason = content, reason


class TokenStore:
    """Tokens and pictures by content; the tokens of a small index stay in memory."""

    def __init__(self, folder: Path, *, num_clips: int, memory_bytes: int) -> None:
        self._folder, self._num_clips, self._memory_bytes = folder, num_clips, memory_bytes
        self._in_memory: dict[str, np.ndarray] = {}
        self._shape: tuple[int, ...] | None = None
        """Shape of all tokens: that of the first ones seen."""

    def put(
        self, content: str, tokens: Float16[np.ndarray, "k v d"], pictures: UInt8[np.ndarray, "k h w 3"]
    ) -> None:
        """Write what was made of a content, the tokens last: where they are, the pictures are too."""
        buffer = io.BytesIO()
        np.save(buffer, tokens)
        side_by_side = jpeg_bytes(np.concatenate([*pictures], axis=1))
        write_whole(self._path(content, "strip"), side_by_side, durable=False)
        write_whole(self._path(content, "npy"), buffer.getvalue())
        self._remember(content, tokens)

    def tokens(self, content: str) -> Float16[np.ndarray, "k v d"]:
        """Return the tokens of a content.

        Raises:
          DamagedIndexError: the file is missing, cut off, or holds something else.
        """
        if (tokens := self._in_memory.get(content)) is None:
            try:
                tokens = np.load(self._path(content, "npy"), allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise DamagedIndexError(self._folder.parent, content, str(error)) from error
            self._shape = self._shape or tokens.shape
            if tokens.dtype != np.float16 or tokens.shape != self._shape or len(tokens) != self._num_clips:
                raise DamagedIndexError(self._folder.parent, content, f"tokens of shape {tokens.shape}")
            self._remember(content, tokens)
        return tokens

    def pictures(self, content: str) -> UInt8[np.ndarray, "k h w 3"]:
        """Return the picture of each clip of a content, RGB.

        Raises:
          DamagedIndexError: the file is missing or not a whole JPEG of that many pictures.
        """
        try:
            jpeg = self._path(content, "strip").read_bytes()
            # OpenCV decodes what is there of a JPEG that is cut off.
            if not jpeg.endswith(b"\xff\xd9"):
                raise ValueError("the pictures are cut off")
            strip = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            if strip is None:
                raise ValueError("the pictures are not a JPEG")
            return np.stack(np.split(strip[..., ::-1], self._num_clips, axis=1))
        except (OSError, ValueError) as error:
            raise DamagedIndexError(self._folder.parent, content, str(error)) from error

    def forget(self) -> None:
        """Drop all tokens from memory; they will be written anew."""
        self._memory_bytes += sum(tokens.nbytes for tokens in self._in_memory.values())
        self._in_memory, self._shape = {}, None

    def keep_only(self, contents: Set[str]) -> None:
        """Delete the files of other contents and of killed processes; only the holder of the lock may."""
        for content in self._in_memory.keys() - contents:
            self._memory_bytes += self._in_memory.pop(content).nbytes
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
        """Keep tokens in memory while there is room; each search reads all, so no choice is better."""
        if self._memory_bytes >= tokens.nbytes:
            self._in_memory[content] = tokens
            self._memory_bytes -= tokens.nbytes

    def _path(self, content: str, suffix: str) -> Path:
        return self._folder / content[:2] / f"{content}.{suffix}"
