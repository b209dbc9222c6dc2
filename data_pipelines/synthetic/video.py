"""Draws and encodes the synthetic videos: real H.264 files, the same bytes on every run.

A video shows three events one after the other, with pauses, on a muted background. An event is an object that
moves; each of its frames shows everything that a text says about it.
"""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import Video
from data_pipelines.synthetic.drawing import SPRITE_SIDE, Event, background, paint, sprite

_SIZES = ((80, 60), (96, 72), (112, 84), (128, 96), (60, 80), (72, 96))  # width, height
_FRAME_RATES = (Fraction(8), Fraction(10), Fraction(12), Fraction(25, 2), Fraction(15))
_MOTIONS = ("slides", "bounces", "spins", "pulses")
_LONG_GOP_SHARE = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """Everything that a video is made from."""

    video_id: str
    seed: int
    events: tuple[Event, ...]
    """Events in the order in which they happen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectPlace:
    """Position of an object in a frame."""

    centre: tuple[float, float]
    """Column and row of the centre, in pixels."""
    scale: float
    angle: float
    """Rotation in degrees."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacedEvent:
    """An event with its time and places."""

    event: Event
    first_frame: int
    places: tuple[ObjectPlace, ...]
    """Place in each frame."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class VideoLayout:
    """All random choices for a video; a function of its plan alone."""

    background: UInt8[np.ndarray, "h w 3"]
    rate: Fraction
    """Frames per second."""
    num_frames: int
    events: tuple[PlacedEvent, ...]
    is_long_gop: bool


def layout(plan: VideoPlan) -> VideoLayout:
    """Return the time and place of everything in a video, for drawing it and for its boxes."""
    rng = np.random.default_rng([plan.seed, zlib.crc32(plan.video_id.encode())])
    width, height = _SIZES[rng.integers(len(_SIZES))]
    rate = _FRAME_RATES[rng.integers(len(_FRAME_RATES))]
    num_frames = round(rng.uniform(4.0, 12.0) * rate)
    behind = background(rng, width, height)
    events = []
    for number, event in enumerate(plan.events):
        slot = num_frames / len(plan.events)
        length = slot * rng.uniform(0.75, 0.92)
        start = number * slot + rng.uniform(0.0, slot - length)
        first, end = round(start), round(start + length)
        places = tuple(_places(end - first, width, height, rng))
        events.append(PlacedEvent(event=event, first_frame=first, places=places))
    return VideoLayout(
        background=behind,
        rate=rate,
        num_frames=num_frames,
        events=tuple(events),
        is_long_gop=rng.random() < _LONG_GOP_SHARE,
    )


def _places(num_frames: int, width: int, height: int, rng: np.random.Generator) -> Iterator[ObjectPlace]:
    """Yield the place of a moving object in each frame."""
    side = rng.uniform(0.48, 0.6) * min(width, height)
    motion = _MOTIONS[rng.integers(len(_MOTIONS))]
    room = np.array([width, height]) - 1.25 * side  # centres keep spinning and pulsing objects inside
    start, end = (0.625 * side + rng.uniform(0.0, 1.0, (2, 2)) * room).tolist()
    turn = rng.uniform(-25.0, 25.0)
    for phase in np.linspace(0.0, 1.0, num_frames):
        (x, y), scale, angle = start, side / SPRITE_SIDE, turn
        if motion == "slides":
            x, y = x + (end[0] - x) * phase, y + (end[1] - y) * phase
        elif motion == "bounces":
            y = 0.625 * side + room[1] * abs(np.cos(2.5 * np.pi * phase))
        elif motion == "spins":
            angle = turn + 360.0 * phase
        else:
            scale *= 1.0 + 0.15 * np.sin(4.0 * np.pi * phase)
        yield ObjectPlace(centre=(float(x), float(y)), scale=float(scale), angle=float(angle))


def make_video(plan: VideoPlan) -> Video:
    """Draw, encode and check a video; a function of the plan alone."""
    planned = layout(plan)
    frames = np.repeat(planned.background[None], planned.num_frames, axis=0)
    for placed in planned.events:
        picture = sprite(placed.event)
        for frame, place in zip(frames[placed.first_frame :], placed.places, strict=False):
            paint(frame, picture, place.centre, place.scale, place.angle)
    data = _encode(frames, planned.rate, is_long_gop=planned.is_long_gop)
    return examine_video(data, video_id=plan.video_id)


def _encode(frames: UInt8[np.ndarray, "f h w 3"], rate: Fraction, *, is_long_gop: bool) -> bytes:
    """Return an MP4 file.

    Most files have a key frame every 12 frames and no B frames. The others, like videos from the web, have a
    single key frame and B frames, and are slower to sample.
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
