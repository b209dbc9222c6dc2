"""Converts a picture that Pillow has opened to the RGB pixels that a viewer sees; `still_images` calls it.

Alpha of every kind is blended over white, as in `pixels`; HDR is tone-mapped; more than 8 bits lose the lower
ones; EXIF's orientation is applied, once. Colour profiles are not applied, as for videos.
"""

from __future__ import annotations

import re

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImagePalette
from PIL.ExifTags import Base

from data_pipelines.decoding.pixels import HLG, PQ, over_white, tone_map
from data_pipelines.decoding.video import UnreadableVideo

_COLOURS_OF_HEIF = re.compile(rb"colrnclx..(..)", re.DOTALL)
"""The box that names primaries, transfer and matrix, in two bytes each."""
_PNG_DEPTH = 24
"""Place in a PNG file of the number of bits."""


def rgb_pixels(image: Image.Image, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of the frame that `image` is at, upright.

    Args:
      image: an opened file, at the wanted frame.
      data: the same file.

    Raises:
      UnreadableVideo: its pixels have no 8-bit meaning.
      Exception: anything that Pillow raises for a damaged file.
    """
    _mend_palette(image)
    image.load()
    pixels = over_white(_rgba(image, data)) if image.has_transparency_data else _rgb(image)
    if transfer := hdr_transfer(image, data):
        pixels = tone_map(pixels.astype(np.uint16) * 257, transfer)
    return upright(pixels, orientation(image))


def hdr_transfer(image: Image.Image, data: bytes) -> int | None:
    """Return PQ or HLG if a HEIF picture says so; one that also has an SDR form is shown in that."""
    if image.format not in ("AVIF", "HEIF"):
        return None
    transfers = {int.from_bytes(code, "big") for code in _COLOURS_OF_HEIF.findall(data)}
    return next((transfer for transfer in (PQ, HLG) if transfers == {transfer}), None)


def orientation(image: Image.Image) -> int:
    """Return the number from 1 to 8 that EXIF has for it; 1, upright, if there is no such number.

    Readers of TIFF, AVIF and HEIC turn pictures themselves or give their own turns as EXIF, never both.
    """
    try:
        number = image.getexif().get(Base.Orientation, 1)
    except Exception:  # damaged EXIF, of which Pillow raises many kinds; viewers ignore it
        return 1
    return int(number) if number in range(1, 9) else 1


def upright(pixels: UInt8[np.ndarray, "sh sw 3"], orientation: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return stored pixels as EXIF's orientation says that they are shown."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode in ("I", "F"):
        raise UnreadableVideo("(bytes)", "its pixels are signed, of 32 bits or floats; convert it to 8 bits")
    if image.mode.startswith("I;16"):
        return np.repeat(_high_byte(image)[..., None], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _high_byte(image: Image.Image) -> UInt8[np.ndarray, "h w"]:
    tags = getattr(image, "tag_v2", {})
    depth = tags.get(Base.BitsPerSample, (16,))[0]
    grey = (np.asarray(image) >> (depth - 8)).astype(np.uint8)
    is_white_zero = tags.get(Base.PhotometricInterpretation, 1) == 0  # Pillow inverts 8 bits only
    return 255 - grey if is_white_zero else grey


def _rgba(image: Image.Image, data: bytes) -> UInt8[np.ndarray, "h w 4"]:
    if image.format == "PNG" and "transparency" in image.info and image.mode != "P":
        return _png_with_a_clear_colour(image, data)
    pixels = np.asarray((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
    if image.format == "BMP" and not pixels[..., 3].any():  # a channel that was never filled
        return np.dstack([pixels[..., :3], np.full(pixels.shape[:2], 255, np.uint8)])
    return pixels


def _png_with_a_clear_colour(image: Image.Image, data: bytes) -> UInt8[np.ndarray, "h w 4"]:
    """Make the colour clear that `tRNS` names in the depth of the file, to which Pillow does not scale."""
    depth, clear = data[_PNG_DEPTH], image.info["transparency"]
    if image.mode.startswith("I;16"):
        alpha = np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)
        return np.dstack([_rgb(image), alpha])
    if image.mode == "RGB" and depth == 16:
        # Pillow drops the lower bytes before it compares.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ValueError("damaged or truncated")
        return (cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA).astype(np.uint16) >> 8).astype(np.uint8)
    if image.mode == "L":
        image.info["transparency"] = clear * 255 // (2**depth - 1)
    return np.asarray(image.convert("RGBA"))


def _mend_palette(image: Image.Image) -> None:
    """Take the palette of a TIFF that has 8 bits where 16 belong as it is meant, like libtiff."""
    colours = getattr(image, "tag_v2", {}).get(Base.ColorMap)
    if colours and image.mode in ("P", "PA") and max(colours) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
