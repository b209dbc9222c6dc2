"""Draws and encodes the synthetic images: PNG files, the same bytes on every run.

An image shows one to three objects side by side, on the same kind of background and with the same sizes and
turns as in the videos, if they fit.
"""

from __future__ import annotations

import dataclasses
import zlib

import cv2
import numpy as np

from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import Video
from data_pipelines.synthetic.drawing import SPRITE_SIDE, Event, background, paint, sprite

_WIDE_SIZES = ((80, 60), (96, 72), (112, 84), (128, 96), (96, 96))  # width, height
_SIZES = (*_WIDE_SIZES, (60, 80), (72, 96))
_SEED = 1  # gives images other backgrounds than videos with the same ids
_REACH = 1.13
"""Width of a turned box, in units of the sprite's side; no object is wider."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """Everything that an image is made from."""

    video_id: str
    """A corpus stores images as videos of one frame."""
    seed: int
    objects: tuple[Event, ...]
    """Objects from left to right."""


def make_image(plan: ImagePlan) -> Video:
    """Draw, encode and check an image; a function of the plan alone."""
    rng = np.random.default_rng([plan.seed, _SEED, zlib.crc32(plan.video_id.encode())])
    sizes = _SIZES if len(plan.objects) < 3 else _WIDE_SIZES  # three abreast would be too small
    width, height = sizes[rng.integers(len(sizes))]
    pixels = background(rng, width, height)
    column = np.array([width / len(plan.objects), height])
    for number, event in enumerate(plan.objects):
        side = min(rng.uniform(0.48, 0.6) * min(width, height), column[0] / _REACH)
        room = column - _REACH * side
        x, y = _REACH * side / 2 + rng.uniform(0.0, 1.0, 2) * room
        turn = rng.uniform(-25.0, 25.0) if rng.random() < 0.75 else rng.uniform(0.0, 360.0)
        paint(pixels, sprite(event), (number * column[0] + x, y), side / SPRITE_SIDE, turn)
    _, png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return examine_video(png.tobytes(), video_id=plan.video_id)
