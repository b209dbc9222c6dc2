"""Reads the clips of a video file; runs in the worker processes of the search index and of the server.

Imports no JAX, because workers start anew after each crash and share the memory.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.clips import VideoClips, sample_clips
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import UnreadableVideo
from data_pipelines.original_sampling import OneClip
from experiments.reports.page import SHOWN_SIZE
from experiments.search.folder import FileState

_OUT_OF_MEMORY = "cannot allocate memory"
"""FFmpeg's words; `probe` keeps only the words of an error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """A video file to read, and how."""

    path: Path
    name: str
    """Name of the video in error messages."""
    state: FileState
    """Size and time of the file, so that requests for a changed file differ."""
    config: DataConfig
    num_clips: int
    one_clip: OneClip = "middle"
    shown_size: int = SHOWN_SIZE
    """Longer side, in pixels, of the pictures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unreadable:
    """The reason why a file cannot be read."""

    reason: str


def read_clips(request: ClipRequest) -> VideoClips | Unreadable:
    """Return the clips of a file, after decoding it from start to end as every command does.

    The whole file is in memory while it is read.

    Raises:
      MemoryError: the file or its frames do not fit.
    """
    try:
        return sample_clips(
            examine_video(request.path, video_id=request.name),
            request.config,
            num_clips=request.num_clips,
            one_clip=request.one_clip,
            shown_size=request.shown_size,
        )
    except UnreadableVideo as error:
        if isinstance(error.__cause__, MemoryError) or _OUT_OF_MEMORY in error.reason:
            raise MemoryError(error.reason) from error
        return Unreadable(reason=error.reason)
    except OSError as error:
        return Unreadable(reason=error.strerror or "it cannot be opened")
    except UserError as error:
        if isinstance(error.__cause__, MemoryError):
            raise MemoryError(str(error)) from error
        return Unreadable(reason=str(error).removeprefix(f"video {request.name}: "))
