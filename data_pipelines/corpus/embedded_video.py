"""Draws and encodes the videos of the embedded corpus: real H.264 files, the same bytes on every run.

Every video shows three events one after the other, with pauses, on a muted background that says nothing about
them. An event is an object that moves; what a text may say about it can be seen in any single frame of it.
"""

from __future__ import annotations

import dataclasses
import io
import zlib
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

from data_pipelines.corpus.embedded_drawing import SPRITE_SIDE, Event, background, paint, sprite
from data_pipelines.probe import probe
from data_pipelines.video import Video

_SIZES = ((80, 60), (96, 72), (112, 84), (128, 96), (60, 80), (72, 96))  # width, height
_FRAME_RATES = (Fraction(8), Fraction(10), Fraction(12), Fraction(25, 2), Fraction(15))
_MOTIONS = ("slides", "bounces", "spins", "pulses")
_LONG_GOP_SHARE = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """All that a video is made from."""

    video_id: str
    seed: int
    events: tuple[Event, ...]
    """In the order in which they happen."""


def make_video(plan: VideoPlan) -> Video:
    """Draw, encode and check a video; a function of the plan alone."""
    rng = np.random.default_rng([plan.seed, zlib.crc32(plan.video_id.encode())])
    width, height = _SIZES[rng.integers(len(_SIZES))]
    rate = _FRAME_RATES[rng.integers(len(_FRAME_RATES))]
    num_frames = round(rng.uniform(4.0, 12.0) * rate)
    frames = np.repeat(background(rng, width, height)[None], num_frames, axis=0)
    for number, event in enumerate(plan.events):
        slot = num_frames / len(plan.events)
        length = slot * rng.uniform(0.75, 0.92)
        start = number * slot + rng.uniform(0.0, slot - length)
        _draw_event(frames[round(start) : round(start + length)], event, rng)
    is_long_gop = rng.random() < _LONG_GOP_SHARE
    return probe(_encode(frames, rate, is_long_gop=is_long_gop), video_id=plan.video_id)


def _draw_event(frames: UInt8[np.ndarray, "f h w 3"], event: Event, rng: np.random.Generator) -> None:
    """Paint the moving object into the frames of its event."""
    num_frames, height, width, _ = frames.shape
    picture = sprite(event)
    side = rng.uniform(0.48, 0.6) * min(width, height)
    motion = _MOTIONS[rng.integers(len(_MOTIONS))]
    room = np.array([width, height]) - 1.25 * side  # centres keep spinning and pulsing objects inside
    start, end = (0.625 * side + rng.uniform(0.0, 1.0, (2, 2)) * room).tolist()
    turn = rng.uniform(-25.0, 25.0)
    for frame, phase in zip(frames, np.linspace(0.0, 1.0, num_frames), strict=True):
        (x, y), scale, angle = start, side / SPRITE_SIDE, turn
        if motion == "slides":
            x, y = x + (end[0] - x) * phase, y + (end[1] - y) * phase
        elif motion == "bounces":
            y = 0.625 * side + room[1] * abs(np.cos(2.5 * np.pi * phase))
        elif motion == "spins":
            angle = turn + 360.0 * phase
        else:
            scale *= 1.0 + 0.15 * np.sin(4.0 * np.pi * phase)
        paint(frame, picture, (x, y), scale, angle)


def _encode(frames: UInt8[np.ndarray, "f h w 3"], rate: Fraction, *, is_long_gop: bool) -> bytes:
    """Return an MP4 file.

    Most have a key frame every 12 frames and no B frames; the others, like videos from the web, have a single
    key frame and B frames, and are slower to sample from.
    """
    options = {"preset": "ultrafast", "tune": "fastdecode", "crf": "26"}
    if is_long_gop:
        options = {"preset": "superfast", "bf": "2", "crf": "26"}
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 250 if is_long_gop else 12
        stream.codec_context.thread_count = 1
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
