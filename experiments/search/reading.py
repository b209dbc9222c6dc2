"""From a file to clips for the model and pictures for people; done in worker processes.

Imports no JAX: workers start anew after a crash, and share the memory. Before: `folder` names the file;
after: `index` encodes the clips of several files together.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from clipbert_jax.errors import UserError
from data_pipelines.clips import sample_clips
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import UnreadableVideo
from experiments.search.manifest import Span

SHOWN_SIZE = 160
"""Pixels of the longer side of pictures in reports."""

_OUT_OF_MEMORY = "cannot allocate memory"
"""What FFmpeg says; of a file that is examined, only its words are left."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileToIndex:
    """A file to read, and how."""

    path: Path
    num_bytes: int
    config: DataConfig
    num_clips: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """What was read of a file."""

    frames: UInt8[np.ndarray, "k t s s 3"]
    clip_seconds: tuple[Span, ...]
    pictures: bytes
    """A JPEG: the first frame of each clip, side by side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Why a file cannot be read."""

    reason: str


def read(item: FileToIndex) -> Read | Unreadable:
    """Return the clips of a file, which is examined from start to end as by every command.

    The file is in memory while it is read, so a worker takes its size and some frames.

    Raises:
      MemoryError: that is not enough.
    """
    try:
        clips = sample_clips(
            examine_video(item.path), item.config, num_clips=item.num_clips, shown_size=SHOWN_SIZE
        )
    except UnreadableVideo as error:
        if isinstance(error.__cause__, MemoryError) or _OUT_OF_MEMORY in error.reason:
            raise MemoryError(error.reason) from error
        return Unreadable(reason=error.reason)
    except (UserError, OSError) as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from error
        return Unreadable(reason=str(error).removeprefix(f"video {item.path}: "))
    return Read(
        frames=clips.frames,
        clip_seconds=tuple((round(float(clip[0]), 3), round(float(clip[-1]), 3)) for clip in clips.times),
        pictures=_side_by_side(clips.shown[:, 0]),
    )


def _side_by_side(pictures: UInt8[np.ndarray, "k h w 3"]) -> bytes:
    strip = cv2.cvtColor(np.concatenate([*pictures], axis=1), cv2.COLOR_RGB2BGR)
    is_encoded, jpeg = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not is_encoded:
        raise ValueError(f"OpenCV could not encode {pictures.shape} as JPEG")
    return jpeg.tobytes()


def split_pictures(jpeg: bytes, num_clips: int) -> UInt8[np.ndarray, "k h w 3"]:
    """Return the pictures that `Read` has side by side, RGB."""
    # OpenCV raises an error of its own for no bytes at all.
    strip = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if strip is None:
        raise ValueError("its pictures are no JPEG")
    return np.stack(np.split(strip[..., ::-1], num_clips, axis=1))
