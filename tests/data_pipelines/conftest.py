"""A small synthetic corpus and a maker of video files, shared by the data tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos

EncodeVideo = Callable[..., bytes]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic corpus of level easy: 10 train, 5 validation, 12 test videos."""
    path = tmp_path_factory.mktemp("corpus") / "data"
    return prepare_synthetic_videos(path, num_train=10, num_validation=5, num_test=12, num_workers=0)


@pytest.fixture(scope="session")
def encode_video() -> EncodeVideo:
    """Return a function that makes a video file of moving noise."""

    def encode(
        *, num_frames: int = 40, gop: int = 12, codec: str = "libx264", options: dict | None = None,
        size: tuple[int, int] = (64, 48), format: str = "mp4", container_options: dict | None = None,
        pts: list[int] | None = None, first_pts: int = 0, rate: Fraction = Fraction(10),
    ) -> bytes:  # fmt: skip
        width, height = size
        noise = np.random.default_rng(0).integers(0, 255, (height, width + num_frames, 3), np.uint8)
        file = io.BytesIO()
        with av.open(file, "w", format=format, options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=rate, options=options or {"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.gop_size = gop
            for number in range(num_frames):
                pixels = np.ascontiguousarray(noise[:, number : number + width])
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = (pts[number] if pts else number) + first_pts
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return file.getvalue()

    return encode
