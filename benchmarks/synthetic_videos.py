"""Makes the videos that `bench_data` reads: moving texture, moving objects and sensor noise, as H.264.

Flat pictures would decode several times faster than what a camera sees, so that nothing could be learned from
their rates.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator

import av
import cv2
import numpy as np
from jaxtyping import UInt8

FRAMES_PER_SECOND = 25
_NOISE = 4.0
"""Standard deviation of the sensor noise, in grey levels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of video file."""

    width: int
    height: int
    gop: int
    """Frames from one key frame to the next at most."""

    @property
    def name(self) -> str:
        """Return "320x240 GOP 250"."""
        return f"{self.width}x{self.height} GOP {self.gop}"


def encode_source(source: Source, *, seconds: float, seed: int) -> bytes:
    """Return an mp4 file as x264 makes it by default: preset medium, crf 23, B frames."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"preset": "medium", "crf": "23"}
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.width, stream.height, stream.pix_fmt = source.width, source.height, "yuv420p"
        stream.codec_context.gop_size = source.gop
        for pixels in _scene(source, round(seconds * FRAMES_PER_SECOND), np.random.default_rng(seed)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _scene(source: Source, num_frames: int, rng: np.random.Generator) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield a camera's pan over a textured ground, with some objects that move by themselves."""
    height, width = source.height, source.width
    margin = width // 2
    ground = _texture(rng, height + margin, width + margin)
    objects = [(_texture(rng, height // 4, width // 5), *rng.uniform(0, 2 * np.pi, 2)) for _ in range(3)]
    angle = rng.uniform(0, 2 * np.pi)
    for number in range(num_frames):
        phase = angle + 2 * np.pi * number / 300
        x, y = (margin / 2 * (1 + np.cos(phase)), margin / 2 * (1 + np.sin(1.3 * phase)))
        frame = cv2.getRectSubPix(ground, (width, height), (x + width / 2, y + height / 2)).astype(np.float32)
        for picture, across, down in objects:
            room = np.array([height - picture.shape[0], width - picture.shape[1]])
            top, left = (room * (1 + np.sin([down + 0.031 * number, across + 0.047 * number])) / 2).astype(
                int
            )
            frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        noise = _NOISE * rng.standard_normal(frame.shape, np.float32)
        yield np.clip(frame + noise, 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return noise of all sizes, coarse noise strongest, as in photographs."""
    picture = np.full((height, width, 3), 128.0, np.float32)
    for cell, strength in ((64, 45.0), (16, 25.0), (4, 12.0), (1, 5.0)):
        grain = rng.normal(0.0, strength, (max(2, height // cell), max(2, width // cell), 3))
        picture += cv2.resize(grain.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)
