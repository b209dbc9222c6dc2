"""Small sound files of many kinds, made on the spot: what the fuzz test breaks."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from data_pipelines.decoding.jpeg_frames import encode_jpeg, pack_jpegs
from tests.data_pipelines.decoding.made_pictures import animated_png

_X264 = {"preset": "ultrafast", "x264-params": "threads=1"}
_B_FRAMES = {"preset": "veryfast", "x264-params": "threads=1:bframes=3:keyint=6"}
_INTRA_REFRESH = {"preset": "veryfast", "x264-params": "threads=1:intra-refresh=1:keyint=6"}


def make_seeds() -> dict[str, bytes]:
    """Return file name -> bytes, the same on the same versions."""
    return {
        "h264.mp4": _encode("mp4", "libx264", options=_X264),
        "b_frames.mp4": _encode("mp4", "libx264", options=_B_FRAMES),
        "intra_refresh.mp4": _encode("mp4", "libx264", options=_INTRA_REFRESH),
        "late.mp4": _encode("mp4", "libx264", options=_B_FRAMES, first_pts=17),
        "fragmented.mp4": _encode(
            "mp4", "libx264", options=_B_FRAMES, muxer={"movflags": "frag_keyframe+empty_moov"}
        ),
        "hevc.mov": _encode(
            "mov", "libx265", options={"preset": "ultrafast", "x265-params": "log-level=none:pools=none"}
        ),
        "mpeg4.3gp": _encode("3gp", "mpeg4"),
        "h264.mkv": _encode("matroska", "libx264", options=_B_FRAMES),
        "vp9.webm": _encode("webm", "libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
        "vp8.webm": _encode("webm", "libvpx", options={"deadline": "realtime", "cpu-used": "8"}),
        "mpeg4.avi": _encode("avi", "mpeg4"),
        "mjpeg.avi": _encode("avi", "mjpeg", pixel_format="yuvj420p"),
        "h264.ts": _encode("mpegts", "libx264", options=_X264),
        "mpeg2.mpg": _encode("mpeg", "mpeg2video", rate=25),
        "flv1.flv": _encode("flv", "flv"),
        "h264.flv": _encode("flv", "libx264", options=_X264),
        "animated.gif": _encode("gif", "gif", pixel_format="rgb8"),
        "animated.apng": _encode("apng", "apng", pixel_format="rgba"),
        "animated.webp": _encode("webp", "libwebp_anim", pixel_format="yuv420p"),
        "vp8.ogg": _encode("ogg", "libvpx", options={"deadline": "realtime", "cpu-used": "8"}),
        "av1.mp4": (Path(__file__).parent / "av1.mp4").read_bytes(),  # its encoder is loud, and not exact
        "image.jpg": encode_jpeg(_pixels(3), 90),
        "image.png": cv2.imencode(".png", _pixels(3))[1].tobytes(),
        "image.webp": cv2.imencode(".webp", _pixels(3))[1].tobytes(),
        "image.tiff": _saved("TIFF", 1, compression="tiff_lzw"),
        "image.bmp": cv2.imencode(".bmp", _pixels(3))[1].tobytes(),
        "image.avif": _saved("AVIF", 1),
        "animated.avif": _saved("AVIF", 6, duration=100),
        "few_colours.apng": _apng_of_few_colours(),
        "frames.jpegs": pack_jpegs([encode_jpeg(_pixels(i), 90) for i in range(4)], np.arange(4), (64, 48)),
    }


def _pixels(number: int) -> np.ndarray:
    rows, columns = np.mgrid[:48, :64]
    return np.stack([(rows * 5 + number * 9) % 256, columns * 4, (rows * columns + number) % 256], -1).astype(
        np.uint8
    )


def _saved(kind: str, num_frames: int, **options: Any) -> bytes:
    file = io.BytesIO()
    first, *others = [Image.fromarray(_pixels(number)) for number in range(num_frames)]
    first.save(file, kind, save_all=num_frames > 1, append_images=others, **options)
    return file.getvalue()


def _apng_of_few_colours() -> bytes:
    rows = [bytes([5 * row % 256] * 32) for row in range(48)]
    parts = [((0, 0, 64, 48), rows), ((9, 9, 20, 20), [row[:10] for row in rows[:20]])]
    return animated_png((64, 48), 4, 3, parts * 3, (b"PLTE", bytes(range(48))), (b"tRNS", b"\x80"))


def _encode(
    container: str,
    codec: str,
    *,
    num_frames: int = 14,
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    first_pts: int = 0,
    rate: int = 10,
) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container, options={"fflags": "+bitexact", **(muxer or {})}) as output:
        stream = output.add_stream(codec, rate=Fraction(rate), options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        stream.codec_context.thread_count = 1
        if not options or "x264-params" not in options:
            stream.codec_context.gop_size = 6
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(_pixels(number), format="rgb24")
            frame.pts = first_pts + number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()
