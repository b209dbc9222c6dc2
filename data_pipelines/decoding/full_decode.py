"""Decodes a file once from start to end and records facts of each frame; `examine` calls it."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer

from data_pipelines.decoding.decode import DAMAGE, error_reason, open_video
from data_pipelines.decoding.pixels import HLG, PQ, RgbConverter, has_alpha


@dataclasses.dataclass(kw_only=True)
class FullDecode:
    """Records of one full decode; ticks are in units of `time_base`."""

    container: str
    codec: str
    time_base: float
    rate: float
    """Frames per second, for files without time stamps."""
    num_declared_frames: int
    has_duration: bool
    declared_seconds: float
    """Duration in the header; 0 if it has none."""
    is_cut_off: bool = False
    """Whether the file is shorter than its header says, for formats without a table of contents."""
    num_packets: int = 0
    num_lost_packets: int = 0
    """Number of packets that the table of contents lists and the file lacks."""
    failure: str = ""
    """Reason why the container could not be read to its end."""
    pts: list[int | None] = dataclasses.field(default_factory=list)
    key_frames: list[int] = dataclasses.field(default_factory=list)
    checksums: list[int] = dataclasses.field(default_factory=list)
    damaged_ticks: list[int] = dataclasses.field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    """Width and height as stored, of the first frame."""
    pixel_format: str = ""
    rotation: int = 0
    is_reflected: bool = False
    start_time: float = 0.0
    notes: tuple[str, ...] = ()

    def add(self, frame: av.VideoFrame) -> None:
        """Record a frame."""
        if not self.pts:
            self._add_first(frame)
        elif (frame.width, frame.height) != self.size and SIZE_NOTE not in self.notes:
            self.notes += (SIZE_NOTE,)
        if frame.key_frame:
            self.key_frames.append(len(self.pts))
        if frame.is_corrupt and frame.pts is not None:
            self.damaged_ticks.append(frame.pts)
        self.pts.append(frame.pts)
        self.checksums.append(checksum(frame))

    def _add_first(self, frame: av.VideoFrame) -> None:
        self.size = (frame.width, frame.height)
        self.pixel_format = frame.format.name
        self.rotation, self.is_reflected = orientation(frame)
        self.start_time = (frame.pts or 0) * self.time_base
        depth = max((component.bits for component in frame.format.components), default=8)
        transfer = {PQ: "HDR (PQ), tone-mapped", HLG: "HDR (HLG), tone-mapped"}.get(frame.color_trc)
        notes = [
            transfer,
            f"{depth}-bit" if depth > 8 else None,
            "alpha, over white" if has_alpha(frame) else None,
        ]
        notes += ["mirrored" if self.is_reflected else None]
        self.notes += tuple(note for note in notes if note)


_PLAIN_FORMATS = ("yuv420p", "yuvj420p", "yuv420p10le")
"""Formats whose planes PyAV returns without conversion if the sides are even."""
SIZE_NOTE = "the frame size changes"


def decode_everything(data: bytes) -> FullDecode:
    """Decode the video stream of a file.

    Raises:
      av.FFmpegError, ValueError: the file cannot be opened, or it has no video stream.
    """
    with open_video(data) as (container, stream, codec):
        full = FullDecode(
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            time_base=float(stream.time_base or 0),
            rate=float(stream.average_rate or stream.base_rate or 25),
            num_declared_frames=stream.frames,
            has_duration=bool(stream.duration or container.duration),
            declared_seconds=float((stream.duration or 0) * (stream.time_base or 0))
            or (container.duration or 0) / av.time_base,
            is_cut_off=_is_cut_off(data),
        )
        # MP4's table of contents lists the packets that follow, with edit lists applied.
        is_listed = "mp4" in full.container and stream.frames > 0
        num_listed = min(stream.frames, len(stream.index_entries)) if is_listed else 0
        with _errors() as errors:
            for packet in _packets(container, stream, full):
                _decode(packet, codec, full, errors)
        full.num_lost_packets = max(0, num_listed - full.num_packets)
        return full


def _is_cut_off(data: bytes) -> bool:
    """Tell whether a Matroska or WebM file ends before its segment does."""
    begin = data.find(b"\x18\x53\x80\x67", 0, 4096) + 4  # the segment's id; its size follows
    if data[:4] != b"\x1a\x45\xdf\xa3" or begin < 4 or begin >= len(data) or not data[begin]:
        return False
    length = 9 - data[begin].bit_length()
    size = int.from_bytes(data[begin : begin + length], "big") & ((1 << 7 * length) - 1)
    is_known = size != (1 << 7 * length) - 1  # a live recording has none
    return is_known and begin + length + size > len(data)


def _packets(container: InputContainer, stream: av.VideoStream, full: FullDecode) -> Iterator[av.Packet]:
    try:
        yield from container.demux(stream)
    except DAMAGE as error:
        full.failure = error_reason(error)


def _decode(packet: av.Packet, codec: av.VideoCodecContext, full: FullDecode, errors: list) -> None:
    errors.clear()
    full.num_packets += bool(packet.size)
    # In a transport stream the mark only means that a counter jumped, as where two files were joined.
    is_damaged = packet.is_corrupt and full.container != "mpegts"
    try:
        for frame in codec.decode(packet):
            full.add(frame)
    except DAMAGE:
        is_damaged = True
    is_damaged |= any(level <= av.logging.ERROR for level, _, _ in errors)
    tick = packet.pts if packet.pts is not None else packet.dts
    if is_damaged:
        full.damaged_ticks.append(tick if tick is not None else (full.pts[-1] or 0 if full.pts else 0))


@contextlib.contextmanager
def _errors() -> Iterator[list[tuple[int, str, str]]]:
    """Collect the decoder's messages: a decoder reports concealed damage in no other way."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=True) as messages:
            yield messages
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Return the counter-clockwise rotation of a frame in degrees, and whether to mirror it afterwards."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5].astype(float)
    is_reflected = a * d - b * c < 0
    if is_reflected:
        a = -a  # mirrored back, left to right
    degrees = -np.degrees(np.arctan2(b, a))
    return round(degrees / 90) * 90 % 360, bool(is_reflected)


def checksum(frame: av.VideoFrame) -> int:
    """Return a checksum of a decoded frame."""
    is_even = not (frame.width % 2 or frame.height % 2)
    if is_even and frame.format.name in _PLAIN_FORMATS:
        return zlib.adler32(memoryview(frame.to_ndarray()))  # pyright: ignore[reportArgumentType]
    return zlib.adler32(RgbConverter((frame.width, frame.height), 0)(frame).tobytes())
