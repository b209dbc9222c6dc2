"""Resizes and pads frames to squares of the model's size; `clips` calls it.

As in the original, the resize is bilinear without antialiasing until the longer side is `size`, and zeros
fill the bottom or the right. The device subtracts the mean later, also from the padding.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from clipbert_jax.errors import UserError

MAX_ASPECT_RATIO = 5.0
"""Largest ratio of the longer to the shorter side; as in the original, longer frames are refused."""

cv2.setNumThreads(1)  # videos are decoded in parallel; OpenCV's own threads would only interfere


def resized_hw(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the size of the picture within its padded square; the shorter side is truncated, not rounded.

    Raises:
      UserError: a side would be 0 pixels long.
    """
    if height >= width:
        resized = size, int(size * (width / height))
    else:
        resized = int(size * (height / width)), size
    if 0 in resized:
        raise UserError(
            f"frames of {width}x{height} pixels vanish at size {size}; use a larger --data.size or crop them"
        )
    return resized


def check_aspect_ratio(height: int, width: int) -> None:
    """Refuse elongated pictures.

    Raises:
      UserError: the longer side is more than `MAX_ASPECT_RATIO` times the shorter one.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_ASPECT_RATIO:
        raise UserError(
            f"frames of {width}x{height} pixels have an aspect ratio of {ratio:.1f}, more than "
            f"{MAX_ASPECT_RATIO:g}; crop or pad the video"
        )


def resize_and_pad(frames: UInt8[np.ndarray, "m h w 3"], size: int) -> UInt8[np.ndarray, "m s s 3"]:
    """Return frames whose longer side is `size`, with zeros at the bottom or the right.

    Raises:
      UserError: the frames are too elongated, or a side would be 0 pixels long.
    """
    num_frames, height, width, _ = frames.shape
    check_aspect_ratio(height, width)
    new_height, new_width = resized_hw(height, width, size)
    padded = np.zeros((num_frames, size, size, 3), np.uint8)
    for frame, out in zip(frames, padded, strict=True):
        out[:new_height, :new_width] = _resize(frame, new_height, new_width)
    return padded


def _resize(frame: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "oh ow 3"]:
    """Interpolate in 16 bits and round once.

    OpenCV's 8-bit path is wrong by up to 0.75 of a grey level, and slower.
    """
    fine = cv2.resize(frame.astype(np.uint16) << 8, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.convertScaleAbs(fine, alpha=1 / 256)
