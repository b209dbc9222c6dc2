"""Opens videos for the server; done in worker processes, which may crash, hang or run out of memory.

Imports no JAX. Before: `library` and `uploads`, which say where a video lies; after: `decoding`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from clipbert_jax.errors import UserError
from data_pipelines.clips import VideoClips, sample_clips
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.decode import DAMAGE, open_video
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.full_decode import orientation
from data_pipelines.decoding.pixels import RgbConverter
from data_pipelines.decoding.still_images import picture_kind, read_picture
from data_pipelines.decoding.video import UnreadableVideo
from data_pipelines.original_sampling import OneClip
from experiments.search.reading import Unreadable

THUMBNAIL_SIZE = 160
"""Pixels of the longer side."""

_STARTS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"RIFF",  # AVI, WebP
    b"GIF8",
    b"\x89PNG",
    b"\xff\xd8\xff",  # JPEG
    b"BM",
    b"II*\0",
    b"MM\0*",  # TIFF
    b"OggS",
    b"FLV",
    b"\0\0\x01",  # MPEG
    b"0&\xb2u",  # ASF, WMV
)
_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"moof")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoToRead:
    """A video to read, and how."""

    path: Path
    name: str
    """What people call it."""
    num_bytes: int
    mtime_ns: int
    config: DataConfig
    num_clips: int
    one_clip: OneClip
    shown_size: int


def read(item: VideoToRead) -> VideoClips | Unreadable:
    """Return the clips of a video; it is in memory while it is decoded."""
    try:
        return sample_clips(
            examine_video(item.path, video_id=item.name),
            item.config,
            num_clips=item.num_clips,
            one_clip=item.one_clip,
            shown_size=item.shown_size,
        )
    except UnreadableVideo as error:
        return Unreadable(reason=error.reason)
    except OSError as error:
        return Unreadable(reason=error.strerror or "it cannot be opened")
    except UserError as error:
        return Unreadable(reason=str(error).removeprefix(f"video {item.name}: "))


def looks_like_video(start: bytes) -> bool:
    """Tell whether a file begins like one of the formats that are taken.

    FFmpeg also opens lists of other files, which lie on this machine: no stranger may send those.
    """
    is_transport_stream = start[:1] == b"G" and start[188:189] == b"G"
    is_timed_transport_stream = start[4:5] == b"G" and start[196:197] == b"G"
    return (
        start.startswith(_STARTS) or start[4:8] in _BOXES or is_transport_stream or is_timed_transport_stream
    )


def thumbnail(path: Path) -> bytes | None:
    """Return a JPEG of a frame that is not the very first, or nothing; no more is decoded than that takes."""
    try:
        picture = _some_frame(path.read_bytes())
    except (*DAMAGE, UnreadableVideo, ValueError, OSError, StopIteration, cv2.error):
        return None
    height, width = picture.shape[:2]
    shrink = THUMBNAIL_SIZE / max(height, width)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    is_encoded, jpeg = cv2.imencode(".jpg", cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    return jpeg.tobytes() if is_encoded else None


def _some_frame(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Return a frame, BGR."""
    if picture_kind(data) is not None:
        return np.ascontiguousarray(read_picture(data, np.zeros(1, np.int64))[0, ..., ::-1])
    with open_video(data) as (container, stream, _):
        if container.duration:
            container.seek(container.duration // 4)
        frame = next(container.decode(stream))
        rotation, is_reflected = orientation(frame)
        to_rgb = RgbConverter((frame.width, frame.height), rotation, is_reflected=is_reflected)
        return np.ascontiguousarray(to_rgb(frame)[..., ::-1])
