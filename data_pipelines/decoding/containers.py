"""Reads what a container says of its length, which FFmpeg does not tell; `full_decode` calls it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import av
from av.container import InputContainer

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_UNKNOWN_SIZES = (0, 2**32 - 1)
"""Sizes in the header of an AVI that was never finished."""


def is_cut_off(data: bytes) -> bool:
    """Tell whether a file ends before the parts that hold its frames do, as their headers give their sizes.

    An MP4 in one part has a table of contents, which `num_lost_packets` reads.
    """
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return _is_matroska_cut_off(data)
    if data[:16] == _ASF_HEADER:
        return _is_asf_cut_off(data)
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return _is_avi_cut_off(data)
    boxes = list(mp4_boxes(data))
    is_fragmented = any(kind == b"moof" for kind, _, _ in boxes)
    return is_fragmented and boxes[-1][0] in (b"moof", b"mdat") and boxes[-1][2] > len(data)


def mp4_boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, begin and end of the outermost boxes of an MP4, up to the first damage."""
    place = 0
    while data[4:8] in (b"ftyp", b"styp") and place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        size = size if size >= 8 else len(data) - place  # 0: up to the end
        yield kind, place, place + size
        place += size


def is_encrypted(data: bytes) -> bool:
    """Tell whether the file is an MP4 with common encryption."""
    headers = (data[begin:end] for kind, begin, end in mp4_boxes(data) if kind in (b"moov", b"moof"))
    return any(mark in header for header in headers for mark in (b"encv", b"pssh", b"tenc"))


def _is_asf_cut_off(data: bytes) -> bool:
    begin = data.find(_ASF_DATA, 0, 2**20)
    size = int.from_bytes(data[begin + 16 : begin + 24], "little") if begin > 0 else 0
    return begin + size > len(data) and size < 2**63  # a live recording has none


def _is_matroska_cut_off(data: bytes) -> bool:
    begin = data.find(b"\x18\x53\x80\x67", 0, 4096) + 4  # the segment's id; its size follows
    if begin < 4 or begin >= len(data) or not data[begin]:
        return False
    length = 9 - data[begin].bit_length()
    size = int.from_bytes(data[begin : begin + length], "big") & ((1 << 7 * length) - 1)
    is_known = size != (1 << 7 * length) - 1  # a live recording has none
    return is_known and begin + length + size > len(data)


def _is_avi_cut_off(data: bytes) -> bool:
    """Walk through the parts of an AVI (the first and, of large files, `AVIX`) to the end of their frames."""
    part = 0
    while data[part : part + 4] == b"RIFF" and part + 12 <= len(data):
        chunk = part + 12
        while chunk + 12 <= len(data):
            kind, size, list_kind = struct.unpack_from("<4sI4s", data, chunk)
            if kind == b"LIST" and list_kind == b"movi":
                if size in _UNKNOWN_SIZES:
                    return False
                if chunk + 8 + size > len(data):
                    return True
                break
            chunk += 8 + size + size % 2
        (size,) = struct.unpack_from("<I", data, part + 4)
        part += 8 + size + size % 2
    return False


def num_lost_packets(container: InputContainer, stream: av.VideoStream, num_bytes: int) -> int:
    """Return the number of packets that an MP4's table of contents places behind the end of the file."""
    if "mp4" not in container.format.name:
        return 0
    return sum(entry.pos + entry.size > num_bytes for entry in stream.index_entries)


def last_frame_seconds(
    container: InputContainer, stream: av.VideoStream, last_pts: int, longest_packet: int
) -> float | None:
    """Return the time for which the header has the last frame shown; None if it does not say.

    MP4 stores durations in the order of decoding, and Matroska none for a single frame, so only the end of
    the stream says it.

    Args:
      container: the file, read to its end.
      stream: its video stream.
      last_pts: time stamp of the last frame.
      longest_packet: longest duration of a packet; an edit list may be longer than what it shows.
    """
    seconds = 0.0
    tick = float(stream.time_base or 0)
    if "mp4" in container.format.name and stream.duration:
        seconds = min((stream.start_time or 0) + stream.duration - last_pts, longest_packet) * tick
    elif "matroska" in container.format.name:
        seconds = _matroska_end(container, stream) - last_pts * tick
    return seconds if seconds > 0 else None


def _matroska_end(container: InputContainer, stream: av.VideoStream) -> float:
    """Return the end of a stream in seconds; 0 if unknown."""
    end = (container.duration or 0) / av.time_base
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = tag.groups()
        return min(end, 3600 * int(hours) + 60 * int(minutes) + float(seconds))
    return end if len(container.streams) == 1 else 0.0
