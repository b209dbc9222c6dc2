"""Converts a video to the form in which the corpus stores it: original, compact or frames.

`ingest` calls it. The index of the `StoredVideo` fits its new bytes, and its note says how the times of
frames changed; `decode.read_frames` reads every form. docs/adr/0009 has the measurements.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from jaxtyping import Float, Int, UInt8

from clipbert_jax.config_checks import check_range
from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.jpeg_frames import encode_jpeg, pack_jpegs
from data_pipelines.decoding.video import FrameIndex, UnreadableVideo, Video

_TICKS_PER_SECOND = 90_000
_PORTION_BYTES = 96 * 2**20
"""Size of the pixels decoded at a time; decoding needs about three times as much memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Original:
    """The unchanged bytes of the file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compact:
    """All frames, upright, as H.264 that decodes quickly from anywhere: short groups, no B frames."""

    size: int = 448
    """Maximum of the longer side in pixels; both sides become even."""
    gop: int = 15
    """Maximum distance of key frames."""
    crf: int = 20
    """x264 quality factor: a smaller one gives better and larger videos; 18 looks like the original."""

    def __post_init__(self) -> None:
        check_range("Compact.size", self.size, 16, 8192)
        check_range("Compact.gop", self.gop, 1, 1000)
        check_range("Compact.crf", self.crf, 0, 51)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames:
    """Upright JPEGs of the frame shown every 1 / fps seconds."""

    fps: float = 4.0
    quality: int = 90
    size: int | None = None
    """Maximum of the longer side in pixels; None keeps the size."""

    def __post_init__(self) -> None:
        check_range("Frames.fps", self.fps, 0.01, 1000)
        check_range("Frames.quality", self.quality, 1, 100)
        if self.size is not None:
            check_range("Frames.size", self.size, 16, 8192)


StorageForm = Original | Compact | Frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class StorageNote:
    """The effect of a form on a video."""

    form: StorageForm
    num_frames_before: int
    num_frames_after: int
    max_time_error_seconds: float
    """Largest difference between the times of a frame in the original and as stored."""
    num_bytes_before: int
    num_bytes_after: int
    encoder: str = ""
    """Versions of the encoder, on which the bytes depend."""

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(self.form).items())
        name = type(self.form).__name__.lower()
        return (
            f"stored as {name}{f' ({settings})' if settings else ''}: "
            f"{self.num_frames_before} -> {self.num_frames_after} frames, "
            f"times within {duration_in_words(self.max_time_error_seconds)}, "
            f"{self.num_bytes_before} -> {self.num_bytes_after} bytes"
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StoredVideo(Video):
    """A video in its storage form, with the health of the original file."""

    note: StorageNote


def store(video: Video, form: StorageForm) -> StoredVideo:
    """Convert a video to a storage form; the same input and versions give the same bytes.

    Args:
      video: a video from `examine_video`.
      form: the storage form.

    Raises:
      UnreadableVideo: a frame does not decode, or the encoded video does not keep the times of frames.
    """
    match form:
        case Original():
            data, index, shift, encoder = video.data, video.index, 0.0, ""
        case Compact():
            data, encoder = _encode_h264(video, form)
            index = _checked_index(data, video)
            shift = float(np.abs(index.frame_times - video.index.frame_times).max())
        case Frames():
            data, index, shift = _encode_jpegs(video, form)
            encoder = f"OpenCV {cv2.__version__}"
    note = StorageNote(
        form=form,
        num_frames_before=len(video.index.frame_times),
        num_frames_after=len(index.frame_times),
        max_time_error_seconds=shift,
        num_bytes_before=len(video.data),
        num_bytes_after=len(data),
        encoder=encoder,
    )
    health = video.health
    if not isinstance(form, Original):
        health = dataclasses.replace(health, notes=(*health.notes, str(note)))
    return StoredVideo(video_id=video.video_id, data=data, index=index, health=health, note=note)


def _encode_h264(video: Video, form: Compact) -> tuple[bytes, str]:
    """Return an mp4 file with every frame at its time, and the versions of the encoder."""
    index = video.index
    width, height = _even(_fitting(index.width, index.height, form.size))
    ticks = np.rint(index.frame_times * _TICKS_PER_SECOND).astype(np.int64)
    order = np.arange(len(ticks))
    ticks = np.maximum.accumulate(ticks - order) + order  # rising, however close two frames are
    file = io.BytesIO()
    with av.open(
        file,
        "w",
        format="mp4",
        options={"video_track_timescale": str(_TICKS_PER_SECOND), "fflags": "+bitexact"},
    ) as container:
        stream = container.add_stream("libx264", rate=_mean_rate(index), options=_x264_options(form))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        codec = stream.codec_context
        codec.time_base = Fraction(1, _TICKS_PER_SECOND)
        codec.thread_count = 1
        codec.colorspace, codec.color_range = Colorspace.ITU601, ColorRange.MPEG
        codec.color_primaries = codec.color_trc = 6  # BT.601, as the matrix
        to_yuv = VideoReformatter()
        packets = []
        for tick, pixels in zip(ticks.tolist(), _frames(video, order), strict=True):
            frame = av.VideoFrame.from_ndarray(_resized(pixels, (width, height)), format="rgb24")
            frame = to_yuv.reformat(
                frame, format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = tick, codec.time_base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[-1].duration = max(1, round(index.duration * _TICKS_PER_SECOND) - int(ticks[-1]))
        container.mux(packets)
    data = file.getvalue()
    core = re.search(rb"x264 - core (\d+)", data)
    return data, f"PyAV {av.__version__}, x264 core {core[1].decode() if core else '?'}"


def _x264_options(form: Compact) -> dict[str, str]:
    return {
        "preset": "veryfast",
        "tune": "fastdecode",
        "crf": str(form.crf),
        "flags": "+bitexact",
        "x264-params": f"keyint={form.gop}:bframes=0:threads=1",
    }


def _mean_rate(index: FrameIndex) -> Fraction:
    """Return frames per second, by which the encoder spends bits; times do not depend on it."""
    rate = len(index.frame_times) / index.duration if index.duration > 0 else 25.0
    return Fraction(min(max(rate, 1.0), 1000.0)).limit_denominator(1000)


def _checked_index(data: bytes, original: Video) -> FrameIndex:
    """Return the index of re-encoded bytes, after a check that every frame kept its time."""
    index = examine_video(data, video_id=original.video_id).index
    times = original.index.frame_times
    if len(index.frame_times) != len(times) or np.abs(index.frame_times - times).max() > 1e-3:
        raise UnreadableVideo(original.video_id, "its frames do not keep their times when re-encoded")
    return dataclasses.replace(index, duration=original.index.duration)


def _encode_jpegs(video: Video, form: Frames) -> tuple[bytes, FrameIndex, float]:
    """Return the file of JPEGs, its index, and the largest error of a frame's time in seconds."""
    index = video.index
    count = max(1, int(np.ceil(index.duration * form.fps - 1e-6)))
    times: Float[np.ndarray, " m"] = np.arange(count) / form.fps
    shown = np.searchsorted(index.frame_times, times + 1e-6, side="right") - 1
    distinct, first, places = np.unique(shown, return_index=True, return_inverse=True)
    width, height = _fitting(index.width, index.height, form.size)
    jpegs = [
        encode_jpeg(_resized(pixels, (width, height)), form.quality) for pixels in _frames(video, distinct)
    ]
    new_index = dataclasses.replace(
        index,
        frame_times=times,
        key_frames=np.arange(count),
        first_pts=0,
        width=width,
        height=height,
        rotation=0,
        is_reflected=False,
        pixel_aspect=1.0,
        is_interlaced=False,
    )
    shift = float(np.abs(times[first] - index.frame_times[distinct]).max())
    return pack_jpegs(jpegs, places, (width, height)), new_index, shift


def _frames(video: Video, positions: Int[np.ndarray, " m"]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield frames, decoding a few at a time to bound memory."""
    portion = max(1, _PORTION_BYTES // (video.index.width * video.index.height * 3))
    for start in range(0, len(positions), portion):
        yield from read_frames(video.data, positions[start : start + portion], video.index)


def _fitting(width: int, height: int, size: int | None) -> tuple[int, int]:
    """Return the size shrunk so that its longer side fits; a size is never enlarged."""
    scale = min(1.0, (size or max(width, height)) / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _even(size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def _resized(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return np.ascontiguousarray(pixels)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def duration_in_words(seconds: float) -> str:
    """Return "3.2 ms" or "1.5 s"; less than a nanosecond is a rounding error and counts as 0."""
    if seconds < 1e-9:
        return "0 ms"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
