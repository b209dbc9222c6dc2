"""Draws the objects of the synthetic corpora; `video` and `image` call it."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np
from jaxtyping import UInt8

COLOURS = {
    "red": (225, 35, 35),
    "yellow": (250, 215, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 225),
    "purple": (160, 50, 205),
    "black": (15, 15, 15),
}
"""RGB by name, for the levels that name colours."""

OBJECTS = {
    "ball": (225, 35, 35),
    "sun": (250, 215, 40),
    "moon": (245, 245, 245),
    "leaf": (40, 170, 60),
    "star": (250, 130, 20),
    "heart": (250, 110, 190),
    "box": (40, 80, 225),
    "drop": (70, 220, 240),
    "ring": (160, 50, 205),
    "cross": (15, 15, 15),
}
"""RGB of each shape, for the level that does not name colours."""

STATES = ("glows", "doubles", "splits")

SPRITE_SIDE = 48
"""Pixels of a square sprite at scale 1."""

NOTICEABLE_OPACITY = 64
"""Opacity, of 255, below which one sees the background and not the sprite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """An object that appears; `colour` and `state` are None at levels that do not use them."""

    shape: str
    colour: str | None = None
    state: str | None = None


def background(rng: np.random.Generator, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return a background of soft greyish spots, which is independent of the objects."""
    spots = rng.integers(85, 150) + rng.integers(-15, 16, (3, 4, 1)) + rng.integers(-8, 9, (3, 4, 3))
    return cv2.resize(spots.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def paint(
    frame: UInt8[np.ndarray, "h w 3"],
    picture: UInt8[np.ndarray, "s s 4"],
    centre: tuple[float, float],
    scale: float,
    angle: float,
) -> None:
    """Blend a turned and scaled sprite into a frame, in place."""
    moved, (left, top) = _moved(picture, frame.shape[:2], centre, scale, angle)
    alpha = moved[:, :, 3:].astype(np.uint16)
    region = frame[top : top + moved.shape[0], left : left + moved.shape[1]]
    region[:] = (region * (255 - alpha) + moved[:, :, :3] * alpha + 127) // 255


def painted_box(
    frame_hw: tuple[int, int],
    picture: UInt8[np.ndarray, "s s 4"],
    centre: tuple[float, float],
    scale: float,
    angle: float,
) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the pixels that `paint` changes noticeably, ends excluded."""
    moved, (left, top) = _moved(picture, frame_hw, centre, scale, angle)
    rows, columns = np.nonzero(moved[:, :, 3] >= NOTICEABLE_OPACITY)
    return (
        left + int(columns.min()),
        top + int(rows.min()),
        left + int(columns.max()) + 1,
        top + int(rows.max()) + 1,
    )


def _moved(
    picture: UInt8[np.ndarray, "s s 4"],
    frame_hw: tuple[int, ...],
    centre: tuple[float, float],
    scale: float,
    angle: float,
) -> tuple[UInt8[np.ndarray, "rh rw 4"], tuple[int, int]]:
    """Return a turned and scaled sprite, and the left top corner of the region that it covers."""
    reach = int(scale * SPRITE_SIDE * 0.72) + 1
    left, top = (max(0, int(c) - reach) for c in centre)
    right, bottom = (min(e, int(c) + reach + 1) for c, e in zip(centre, frame_hw[::-1], strict=True))
    middle = (SPRITE_SIDE - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), angle, scale)
    matrix[:, 2] += np.array(centre) - middle - (left, top)
    moved = cv2.warpAffine(picture, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    return moved, (left, top)


@functools.cache
def sprite(event: Event) -> UInt8[np.ndarray, "s s 4"]:
    """Return the sprite of an object, RGB and opacity."""
    rgb = COLOURS[event.colour] if event.colour else OBJECTS[event.shape]
    side = 4 * SPRITE_SIDE  # drawn large and shrunk: smooth edges
    shape = _shape_mask(event.shape, side)
    glow = np.zeros_like(shape)
    if event.state == "glows":
        cv2.circle(glow, (side // 2, side // 2), side // 2 - 2, 255, -1)
        shape = _placed(shape, [(side // 5, side // 5)], side * 3 // 5)
    elif event.state == "doubles":
        shape = _placed(shape, [(0, 0), (side * 9 // 20, side * 9 // 20)], side * 11 // 20)
    elif event.state == "splits":
        halves = shape[:, : side // 2], shape[:, side // 2 :]
        gap = np.zeros((side, side // 4), np.uint8)
        shape = cv2.resize(
            np.hstack([halves[0], gap, halves[1]]), (side, side), interpolation=cv2.INTER_NEAREST
        )
    pixels = np.empty((side, side, 4), np.uint8)
    pixels[..., :3] = np.where(shape[..., None] > 0, rgb, (255, 250, 205))
    pixels[..., 3] = np.maximum(shape, glow)
    small = cv2.resize(pixels, (SPRITE_SIDE, SPRITE_SIDE), interpolation=cv2.INTER_AREA)
    if event.state != "glows":
        small[..., :3] = rgb  # no fringe of the glow's colour
    small[[0, -1], :, 3] = small[:, [0, -1], 3] = 0  # so that a turned sprite has soft edges
    return small


def _placed(
    shape: UInt8[np.ndarray, "s s"], corners: list[tuple[int, int]], new_side: int
) -> UInt8[np.ndarray, "s s"]:
    """Return a canvas with small copies of a shape."""
    canvas = np.zeros_like(shape)
    copy = cv2.resize(shape, (new_side, new_side), interpolation=cv2.INTER_NEAREST)
    for x, y in corners:
        canvas[y : y + new_side, x : x + new_side] = copy
    return canvas


def _shape_mask(name: str, side: int) -> UInt8[np.ndarray, "s s"]:
    """Return a mask with 255 inside the named shape."""
    x, y = np.meshgrid(*[np.linspace(-1.0, 1.0, side)] * 2)
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)  # 0 degrees is up
    inside = {
        "ball": lambda: radius < 0.92,
        "sun": lambda: radius < 0.8 + 0.16 * np.sign(np.cos(8 * angle)),
        "moon": lambda: (radius < 0.95) & (np.hypot(x - 0.5, y) > 0.8),
        "leaf": lambda: (np.hypot(x - 0.45, y) < 1.05) & (np.hypot(x + 0.45, y) < 1.05) & (abs(x) > 0.05),
        "star": lambda: radius * (1.0 + 1.1 * _triangle_wave(5 * angle)) < 0.98,
        "heart": lambda: x**2 + (1.1 * y + 0.75 * np.sqrt(abs(x)) - 0.3) ** 2 < 0.9,
        "box": lambda: (abs(x) < 0.8) & (abs(y) < 0.8),
        "drop": lambda: np.where(y > 0.25, np.hypot(x, y - 0.25) < 0.68, abs(x) < 0.68 * (y + 0.95) / 1.2),
        "ring": lambda: (radius < 0.95) & (radius > 0.55),
        "cross": lambda: (np.minimum(abs(x), abs(y)) < 0.27) & (np.maximum(abs(x), abs(y)) < 0.92),
    }[name]()
    return np.where(inside, np.uint8(255), np.uint8(0))


def _triangle_wave(angle: np.ndarray) -> np.ndarray:
    """Return 0 at multiples of 2 pi, 1 half-way."""
    return abs((angle / np.pi + 1.0) % 2.0 - 1.0)
