"""Opens a file and chooses the video stream that a player would show; `decode` and `full_decode` call it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Disposition

from data_pipelines.decoding.video import MAX_PIXELS
from data_pipelines.decoding.work import WORK

DAMAGE = (av.FFmpegError, OverflowError)
"""Errors that PyAV raises for damaged content."""

_NOTHING_ELSE = {"protocol_whitelist": "none", "default_fps": "10"}
"""Options that keep a file from opening others: FFmpeg would open files and ports that its text names.
Frames without a delay of an animated PNG last a tenth of a second, as in GIFs."""

_TOLERANT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Options for files whose metadata are not UTF-8: PyAV 18 refuses them by default, 19 does not."""

_NO_MOVIE = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
"""Marks of streams that show a cover or thumbnails."""
_FOR_FEW = (
    Disposition.dependent
    | Disposition.metadata
    | Disposition.comment
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
)
"""Marks of streams that complete another one, or that only some viewers ask for."""
_PICTURE_CODECS = ("mjpeg", "png", "bmp", "gif", "webp", "tiff", "jpeg2000", "jpegxl")
"""Codecs of covers and thumbnails; a movie of them has more than one frame."""


_MAX_PIXEL_ASPECT = 4
"""Largest ratio of a pixel's sides; those of real formats are at most 2.4, and greater ones are errors."""


@contextlib.contextmanager
def open_video(data: bytes) -> Iterator[tuple[InputContainer, av.VideoStream, av.VideoCodecContext]]:
    """Open a file to decode, in one thread, the video stream that a player would show.

    Raises:
      ValueError: the file has no video stream, or its frames exceed `MAX_PIXELS`.
    """
    with av.open(io.BytesIO(data), "r", container_options=_NOTHING_ELSE, **_TOLERANT) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = max(container.streams.video, key=_claim)
        codec = _decoder(stream)
        if codec.width * codec.height > MAX_PIXELS:
            raise ValueError(
                f"its frames of {codec.width}x{codec.height} pixels are more than {MAX_PIXELS:,}"
            )
        num_frames = (
            stream.frames or float(stream.average_rate or 0) * (container.duration or 0) / av.time_base
        )
        WORK.expect(round(num_frames * codec.width * codec.height))
        codec.thread_count = 1
        codec.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream, codec


def _claim(stream: av.VideoStream) -> tuple[int, ...]:
    """Return the claim of a stream to be shown; the greatest one wins, and the first of equal ones.

    A decodable movie comes before a cover, the default stream before others, and a large one before a small
    one.
    """
    marks, codec = stream.disposition, stream.codec_context
    if codec is None:
        return (0,)
    is_thumbnail = codec.name in _PICTURE_CODECS and stream.frames == 1
    return (
        1,
        not (marks & _NO_MOVIE or is_thumbnail),
        not marks & _FOR_FEW,
        bool(marks & Disposition.default),
        codec.width * codec.height,
    )


def _decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    if stream.codec_context is None:
        raise ValueError("its codec is not known")
    # FFmpeg's own decoders of VP8 and VP9 drop alpha.
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name, "")
    if stream.metadata.get("alpha_mode") != "1" or name not in av.codecs_available:
        return stream.codec_context
    codec = av.CodecContext.create(name, "r")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height = stream.codec_context.width, stream.codec_context.height
    return codec


def pixel_aspect(stream: av.VideoStream) -> float:
    """Return the width of a pixel divided by its height, as a player takes it."""
    ratio = stream.sample_aspect_ratio
    # Animated pictures hold dots per inch at this place; no viewer stretches them.
    if not ratio or stream.codec_context.name in ("gif", "apng", "png"):
        return 1.0
    return float(ratio) if 1 / _MAX_PIXEL_ASPECT <= ratio <= _MAX_PIXEL_ASPECT else 1.0


def decoded(
    container: InputContainer, stream: av.VideoStream, codec: av.VideoCodecContext
) -> Iterator[av.VideoFrame]:
    """Yield the frames in display order, without packets that do not decode."""
    with demuxed(container, stream) as packets:
        for packet in packets:
            WORK.advance(codec.width * codec.height)
            try:
                yield from codec.decode(packet)
            except DAMAGE:
                continue


@contextlib.contextmanager
def demuxed(container: InputContainer, stream: av.VideoStream) -> Iterator[Iterator[av.Packet]]:
    """Yield the packets of a stream; only closing the generator frees a packet (156 bytes) of PyAV."""
    generator: Any = container.demux(stream)
    with contextlib.closing(generator) as packets:
        yield packets


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Return the counter-clockwise rotation of a frame in degrees, and whether to mirror it afterwards."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5].astype(float)
    is_reflected = a * d - b * c < 0
    if is_reflected:
        a = -a  # mirrored back, left to right
    degrees = -np.degrees(np.arctan2(b, a))
    return round(degrees / 90) * 90 % 360, bool(is_reflected)


def _unnamed_side_data(kind: type[Type], number: int) -> Type:
    """Return a member for side data that FFmpeg knows and PyAV does not name, such as EXIF."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNNAMED_{number}", number
    return member


# Without it, one such entry makes all side data of a frame unreadable, also the display matrix.
Type._missing_ = classmethod(_unnamed_side_data)  # pyright: ignore[reportAttributeAccessIssue]


def error_reason(error: Exception) -> str:
    """Return the text of an error, understandable for a user."""
    if isinstance(error, av.FFmpegError) and error.strerror:
        return f"{error.strerror[0].lower()}{error.strerror[1:]} (damaged, truncated, or not a video)"
    return str(error)
