"""Decodes still images, and animated WebP, which FFmpeg cannot decode; `examine` and `decode` call it.

An image is a video of one frame. JPEGs are turned by their EXIF orientation, and alpha is blended over white.
FFmpeg decodes animated GIF and PNG as videos.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.decoding.pixels import over_white
from data_pipelines.decoding.video import MAX_PIXELS, UNKNOWN_PTS, FrameIndex, Health, UnreadableVideo

_PORTION_BYTES = 2**26
_DEFAULT_DELAY = 100
"""Milliseconds for which a frame without delay is shown in an animation, as in browsers."""
_SIGNATURES = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I"}
"""Format of `struct` for each type of a TIFF's numbers."""
_JPEG_MARKER = re.compile(b"\xff([^\0\xff])")
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def picture_kind(data: bytes) -> str | None:
    """Return `jpeg`, `png`, `bmp`, `tiff`, `webp` or `animated webp`; None if FFmpeg decodes it."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "animated webp" if data[12:16] == b"VP8X" and data[20:21] and data[20] & 2 else "webp"
    kind = next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), None)
    if kind == "png" and b"acTL" in data[: data.find(b"IDAT")]:
        return None  # animated
    return kind


def examine_picture(data: bytes) -> tuple[FrameIndex, Health]:
    """Decode an image completely, and return its frame index and health.

    Raises:
      UnreadableVideo: the image does not decode.
    """
    kind = picture_kind(data) or ""
    _check_size(data, kind)
    if kind == "animated webp":
        (height, width), times, duration = _times_of_animation(data)
        notes = ("animated WebP, which FFmpeg cannot read",)
    else:
        (height, width), times, duration, notes = _decode_still(data, kind).shape[:2], np.zeros(1), 0.0, ()
    index = FrameIndex(
        frame_times=times,
        key_frames=np.zeros(1, np.int64),
        first_pts=UNKNOWN_PTS,
        width=width,
        height=height,
        rotation=0,
        is_reflected=False,
        duration=duration,
    )
    health = Health(
        verdict="ok",
        container=kind,
        codec=kind.split()[-1],
        num_frames=len(times),
        fps=len(times) / duration if duration else 0.0,
        is_variable_rate=len(times) > 2 and bool(np.ptp(np.diff(times)) > 2e-3),
        notes=notes,
    )
    return index, health


def read_picture(data: bytes, frame_indices: Int[np.ndarray, " m"]) -> UInt8[np.ndarray, "m h w 3"]:
    """Return the wanted frames.

    Raises:
      UnreadableVideo: the image does not decode, or it lacks a wanted frame.
    """
    kind = picture_kind(data) or ""
    _check_size(data, kind)
    wanted = set(np.asarray(frame_indices).tolist())
    if kind == "animated webp":
        frames = {}
        for position, (pixels, _) in enumerate(_animation(data)):
            if position in wanted:
                frames[position] = pixels
            if len(frames) == len(wanted):
                break
    else:
        frames = {0: _decode_still(data, kind)}
    missing = sorted(wanted - frames.keys())
    if missing:
        raise UnreadableVideo("(bytes)", f"frames {missing} of its index cannot be decoded")
    return np.stack([frames[int(position)] for position in frame_indices])


def _decode_still(data: bytes, kind: str) -> UInt8[np.ndarray, "h w 3"]:
    # Only IMREAD_UNCHANGED keeps alpha; only the other modes apply EXIF, which JPEGs have.
    flags = cv2.IMREAD_COLOR if kind == "jpeg" else cv2.IMREAD_UNCHANGED
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # which says nothing about the file
            raise MemoryError(error.err) from error
        pixels = None
    if pixels is None:
        raise UnreadableVideo(
            "(bytes)", f"its {kind.upper()} picture cannot be decoded (damaged or truncated)"
        )
    return _as_rgb(pixels)


def _as_rgb(pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise UnreadableVideo("(bytes)", f"its pixels are {pixels.dtype}; convert it to 8 bits")
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if pixels.shape[-1] == 4:
        return over_white(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _animation(data: bytes) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], int]]:
    """Yield each frame and its time on screen in milliseconds; decodes in portions to bound memory."""
    width, height = _declared_size(data, "animated webp")
    portion = max(1, _PORTION_BYTES // (4 * width * height))
    start = 0
    while True:
        try:
            is_read, animation = cv2.imdecodeanimation(np.frombuffer(data, np.uint8), start, portion)
        except cv2.error:
            is_read, animation = False, None
        frames, delays = (animation.frames, animation.durations) if is_read and animation else ((), ())
        for pixels, delay in zip(frames, delays, strict=True):
            yield _as_rgb(pixels), int(delay) if delay > 0 else _DEFAULT_DELAY
        start += len(frames)
        if len(frames) < portion:
            break
    if not start:
        raise UnreadableVideo("(bytes)", "its animation cannot be decoded (damaged or truncated)")


def _times_of_animation(data: bytes) -> tuple[tuple[int, int], Float[np.ndarray, " f"], float]:
    delays, size = [], (0, 0)
    for pixels, delay in _animation(data):
        delays.append(delay)
        size = pixels.shape[:2]
    ends = np.cumsum(delays) / 1000
    return size, np.concatenate([[0.0], ends[:-1]]), float(ends[-1])


def _check_size(data: bytes, kind: str) -> None:
    """Refuse an image that could fill the memory: decoders trust the header and allocate first."""
    width, height = _declared_size(data, kind)
    if width * height == 0:
        raise UnreadableVideo(
            "(bytes)",
            f"its {kind.upper()} picture cannot be decoded: its header says no size (damaged or cut)",
        )
    if width * height > MAX_PIXELS:
        raise UnreadableVideo("(bytes)", f"its {width}x{height} pixels are more than {MAX_PIXELS:,}")


def _declared_size(data: bytes, kind: str) -> tuple[int, int]:
    """Return width and height from the header, (0, 0) if it is damaged."""
    try:
        if kind == "png":
            return struct.unpack_from(">II", data, 16)
        if kind == "bmp":
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)
        if kind == "jpeg":
            return _jpeg_size(data)
        return _tiff_size(data) if kind == "tiff" else _webp_size(data)
    except struct.error:
        return 0, 0


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return the size in the frame header; bytes between segments are skipped, as in libjpeg."""
    place = 2
    while found := _JPEG_MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 3)
            return width, height
        if marker not in _JPEG_WITHOUT_LENGTH:
            place += struct.unpack_from(">H", data, place)[0]
    return 0, 0


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Return the size of the first page; no other page is decoded."""
    order = "<" if data.startswith(b"II") else ">"
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    (num_tags,) = struct.unpack_from(f"{order}H", data, place)
    sizes = {_TIFF_WIDTH: 0, _TIFF_HEIGHT: 0}
    for tag_place in range(place + 2, place + 2 + 12 * num_tags, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, tag_place)
        if tag in sizes and kind in _TIFF_NUMBERS:
            (number,) = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, tag_place + 8)
            sizes[tag] = max(sizes[tag], number)
    return sizes[_TIFF_WIDTH], sizes[_TIFF_HEIGHT]


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the size of the canvas, or of the single lossy or lossless frame."""
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            return 0, 0
