"""The file format of the storage form `frames`: JPEGs one after the other.

`corpus.storage` writes it, `decode.read_frames` reads it. A table at the front locates each frame; a frame
that is shown several times is stored once. Little-endian:

    8 bytes   MAGIC
    3 uint32  number of frames, width, height
    per frame 2 uint64: where its JPEG begins in the file, and how long it is
    JPEGs
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from data_pipelines.decoding.video import UnreadableVideo

MAGIC = b"CBJPEGS1"
_HEADER = struct.Struct("<8s3I")
_PLACE = np.dtype("<u8")


def is_jpeg_frames(data: bytes) -> bool:
    """Tell whether the bytes are a file of this format."""
    return data[: len(MAGIC)] == MAGIC


def encode_jpeg(pixels: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
    """Return an RGB frame as JPEG."""
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def pack_jpegs(jpegs: Sequence[bytes], shown: Int[np.ndarray, " m"], size: tuple[int, int]) -> bytes:
    """Return the file.

    Args:
      jpegs: encoded images, all of one size.
      shown: position in `jpegs` of each frame of the file.
      size: width and height of the JPEGs.
    """
    lengths = np.array([len(jpeg) for jpeg in jpegs], np.int64)
    begin = _HEADER.size + 2 * _PLACE.itemsize * len(shown)
    offsets = begin + np.cumsum(lengths) - lengths
    places = np.stack([offsets[shown], lengths[shown]], axis=1).astype(_PLACE)
    return b"".join([_HEADER.pack(MAGIC, len(shown), *size), places.tobytes(), *jpegs])


def read_jpegs(data: bytes, frame_indices: Int[np.ndarray, " m"]) -> UInt8[np.ndarray, "m h w 3"]:
    """Return the wanted RGB frames, each decoded once.

    Raises:
      UnreadableVideo: the file lacks a wanted frame, or it does not decode.
    """
    (width, height), places = _size_and_places(data)
    wanted, order = np.unique(frame_indices, return_inverse=True)
    if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(places):
        raise UnreadableVideo("(bytes)", f"it has {len(places)} frames, but not frame {wanted[-1]}")
    frames: dict[int, np.ndarray] = {}  # by their place in the file
    for begin, length in places[wanted]:
        if begin not in frames:
            frames[int(begin)] = _decode_jpeg(data[begin : begin + length], (height, width, 3))
    if not frames:
        return np.zeros((0, height, width, 3), np.uint8)
    return np.stack([frames[int(begin)] for begin in places[wanted][order, 0]])


def _size_and_places(data: bytes) -> tuple[tuple[int, int], Int[np.ndarray, "f 2"]]:
    if len(data) < _HEADER.size:
        raise UnreadableVideo("(bytes)", "its table of frames is cut off")
    _, num_frames, width, height = _HEADER.unpack_from(data)
    if len(data) < _HEADER.size + 2 * _PLACE.itemsize * num_frames:
        raise UnreadableVideo("(bytes)", "its table of frames is cut off")
    places = np.frombuffer(data, _PLACE, 2 * num_frames, _HEADER.size).reshape(num_frames, 2)
    if np.any(places > len(data)):
        raise UnreadableVideo("(bytes)", "its table of frames points behind its end")
    return (width, height), places.astype(np.int64)


def _decode_jpeg(jpeg: bytes, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "h w 3"]:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags) if jpeg else None
    if pixels is None or pixels.shape != shape:
        raise UnreadableVideo("(bytes)", "one of its JPEGs cannot be decoded")
    return pixels
