"""Tells videos and images from other files by their first bytes; `corpus` calls it."""

from __future__ import annotations

import re

NUM_SIGNATURE_BYTES = 4096

_STARTS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),  # ASF
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG video
    b"\x00\x00\x00\x01\x67",  # H.264
    b"\x00\x00\x00\x01\x40\x01",  # HEVC
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02",  # MXF
    b"GIF87a",
    b"GIF89a",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"II*\0",
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"MM\0+",
)
_AUDIO_BRANDS = (b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ")
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"styp", b"moof")
_PACKET_SIZES = (188, 192, 204)
"""Bytes between the marks of a transport stream: plain, of AVCHD cameras, with error correction."""


def is_video(head: bytes) -> bool:
    """Tell whether a file that begins so is a video or an image.

    Args:
      head: the first `NUM_SIGNATURE_BYTES` of the file.
    """
    if head.startswith(_STARTS):
        return True
    if head[4:8] in _MP4_BOXES:
        return head[8:12] not in _AUDIO_BRANDS
    if head[:4] == b"RIFF":
        return head[8:12] in (b"AVI ", b"WEBP")
    if head[:2] == b"BM" and len(head) > 26:
        return int.from_bytes(head[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124)
    if head[:4] == b"OggS":
        return bool(re.search(rb"\x80theora|OVP80|BBCD", head))
    return _is_transport_stream(head)


def _is_transport_stream(head: bytes) -> bool:
    return any(
        len(head) > start + 3 * size and set(head[start::size]) == {0x47}
        for size in _PACKET_SIZES
        for start in (0, size - 188)
    )
