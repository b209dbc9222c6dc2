"""Converts a decoder's frame to the RGB picture that a viewer would see; `decode` calls it.

Matrix and range are those that the frame names, by default BT.601, as in FFmpeg and hence in the original.
Alpha is blended over white. HDR is tone-mapped: light relative to reference white (203 cd/m2, BT.2408),
primaries from BT.2020 to BT.709, linear up to half of white and an extended Reinhard shoulder from there to
1,000 cd/m2, sRGB encoding.
"""

from __future__ import annotations

import functools

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8, UInt16

from data_pipelines.decoding.deinterlace import deinterlaced

PQ, HLG = 16, 18
"""Transfer characteristics of HDR, as ITU-T H.273 numbers them."""
REFERENCE_WHITE, PEAK = 203.0, 1000.0
"""Candela per square metre of a white page, and of the light that becomes full white."""
KNEE = 0.5
"""Share of reference white up to which tone mapping changes nothing."""

_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMINANCE = np.array([[0.2627, 0.6780, 0.0593]], np.float32)
_NUM_LEVELS = 4096


class RgbConverter:
    """Converts frames to RGB arrays of one size, turned and mirrored for display.

    A stream may change its size, so that of its first frame counts for all.

    Args:
      size: width and height in square pixels before the rotation.
      rotation: counter-clockwise, in degrees.
      is_reflected: whether frames are mirrored after the rotation.
      deinterlaces: whether the second field of interlaced frames is replaced.
    """

    def __init__(
        self, size: tuple[int, int], rotation: int, *, is_reflected: bool = False, deinterlaces: bool = False
    ):
        self._reformatter = VideoReformatter()
        self._width, self._height = size
        self._quarter_turns = rotation // 90
        self._is_reflected = is_reflected
        self._deinterlaces = deinterlaces

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        if self._deinterlaces and frame.interlaced_frame:
            frame = deinterlaced(frame)
        pixels = self._rgb(frame)
        if self._quarter_turns:
            pixels = np.rot90(pixels, self._quarter_turns)
        return pixels[:, ::-1] if self._is_reflected else pixels

    def _rgb(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "sh sw 3"]:
        if frame.color_trc in (PQ, HLG):
            return tone_map(self._reformat(frame, "rgb48le"), frame.color_trc)
        if has_alpha(frame):
            return over_white(self._reformat(frame, "rgba"))
        return self._reformat(frame, "rgb24")

    def _reformat(self, frame: av.VideoFrame, pixel_format: str) -> np.ndarray:
        # One thread: the default of one for each core costs more than it gains.
        converted = self._reformatter.reformat(frame, self._width, self._height, pixel_format, threads=1)
        return converted.to_ndarray()


def has_alpha(frame: av.VideoFrame) -> bool:
    """Tell whether the frame has an alpha channel."""
    return any(component.is_alpha for component in frame.format.components)


def over_white(pixels: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return RGBA pixels blended over white and rounded."""
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(pixels[..., :3])
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def tone_map(pixels: UInt16[np.ndarray, "h w 3"], transfer: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return HDR pixels (BT.2020, 16 bits, PQ or HLG) as an SDR screen shows them."""
    light = np.take(_light_of_levels(transfer), pixels >> 4)
    if transfer == HLG:
        # The system gamma of a screen of 1,000 cd/m2.
        light *= PEAK / REFERENCE_WHITE * cv2.pow(cv2.transform(light, _LUMINANCE), 0.2)[..., None]
    light = np.maximum(cv2.transform(light, _BT2020_TO_BT709), 0)
    brightest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])[..., None] + np.float32(
        1e-6
    )
    light *= _shoulder(brightest) / brightest  # equal factors for all three keep the hue
    levels = np.minimum(light * (_NUM_LEVELS - 1) + 0.5, _NUM_LEVELS - 1).astype(np.uint16)
    return np.take(_srgb_of_levels(), levels)


def _shoulder(light: Float[np.ndarray, "h w 1"]) -> Float[np.ndarray, "h w 1"]:
    above = np.maximum(light - KNEE, 0) / (1 - KNEE)
    most = (PEAK / REFERENCE_WHITE - KNEE) / (1 - KNEE)
    return np.minimum(light, KNEE) + (1 - KNEE) * above * (1 + above / most**2) / (1 + above)


@functools.cache
def _light_of_levels(transfer: int) -> Float[np.ndarray, " 4096"]:
    """Return the light of each signal level: of the screen for PQ, of the scene for HLG."""
    signal = np.arange(_NUM_LEVELS) / (_NUM_LEVELS - 1)
    if transfer == PQ:
        root = signal ** (32 / 2523)
        light = (np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)
        return (light * 10000 / REFERENCE_WHITE).astype(np.float32)
    dark = signal**2 / 3
    bright = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(signal <= 0.5, dark, bright).astype(np.float32)


@functools.cache
def _srgb_of_levels() -> UInt8[np.ndarray, " 4096"]:
    light = np.arange(_NUM_LEVELS) / (_NUM_LEVELS - 1)
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(signal * 255).astype(np.uint8)
