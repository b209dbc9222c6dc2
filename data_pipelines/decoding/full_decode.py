"""Decodes a file once from start to end and records facts of each frame; `examine` calls it."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator

import av
from av.container import InputContainer

from data_pipelines.decoding.containers import is_cut_off, last_frame_seconds, num_lost_packets
from data_pipelines.decoding.pixels import HLG, PQ, RgbConverter, has_alpha
from data_pipelines.decoding.streams import DAMAGE, error_reason, open_video, orientation, pixel_aspect
from data_pipelines.decoding.video import square_size
from data_pipelines.decoding.work import WORK


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
    dts: list[int | None] = dataclasses.field(default_factory=list)
    key_frames: list[int] = dataclasses.field(default_factory=list)
    checksums: list[int] = dataclasses.field(default_factory=list)
    damaged_ticks: list[int] = dataclasses.field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    """Width and height as stored, of the first frame."""
    pixel_format: str = ""
    rotation: int = 0
    is_reflected: bool = False
    pixel_aspect: float = 1.0
    is_interlaced: bool = False
    last_seconds: float = 0.0
    """Time for which the last frame is shown; 0 if the file does not say."""
    longest_packet: int = 0
    """Longest duration of a packet in ticks."""
    leading_before: int | None = None
    """Tick of the first key frame, until a packet is shown after it."""
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
        if frame.interlaced_frame and not self.is_interlaced:
            self.is_interlaced = True
            self.notes += (INTERLACED_NOTE,)
        # One tick is what FFmpeg takes if a file has no rate.
        self.last_seconds = frame.duration * self.time_base if (frame.duration or 0) > 1 else 0.0
        if frame.is_corrupt and frame.pts is not None:
            self.damaged_ticks.append(frame.pts)
        self.pts.append(frame.pts)
        self.dts.append(frame.dts)
        self.checksums.append(checksum(frame))

    def is_leading(self, packet: av.Packet) -> bool:
        """Tell whether a packet is shown before the first key frame, although it follows it in the file.

        It refers to frames before an open key frame, which are not there where a file was cut.
        """
        if self.num_packets == 1 and packet.is_keyframe:
            self.leading_before = packet.pts
            return False
        key_tick, tick = self.leading_before, packet.pts
        if key_tick is None or self.num_packets > _MAX_REORDERED or (tick is not None and tick >= key_tick):
            self.leading_before = None
        return self.leading_before is not None

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
        notes += ["mirrored" if self.is_reflected else None, self._shape_note()]
        self.notes += tuple(note for note in notes if note)

    def _shape_note(self) -> str | None:
        shown = square_size(self.size, self.pixel_aspect)
        if shown == self.size:
            return None
        (width, height), (shown_width, shown_height) = self.size, shown
        return f"pixels are not square: {width}x{height} shown as {shown_width}x{shown_height}"


_PLAIN_FORMATS = ("yuv420p", "yuvj420p", "yuv420p10le")
"""Formats whose planes PyAV returns without conversion if the sides are even."""
_MAX_REORDERED = 32
"""Number of packets within which a picture may be shown before a key frame that it follows in the file."""
SIZE_NOTE = "the frame size changes"
INTERLACED_NOTE = "interlaced, shown without the second field"


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
            is_cut_off=is_cut_off(data),
            pixel_aspect=pixel_aspect(stream),
        )
        with _errors() as errors:
            for packet in _packets(container, stream, full):
                _decode(packet, codec, full, errors)
        full.num_lost_packets = num_lost_packets(container, stream, len(data))
        if full.pts and full.pts[-1] is not None and not (full.num_lost_packets or full.is_cut_off):
            declared = last_frame_seconds(container, stream, full.pts[-1], full.longest_packet)
            full.last_seconds = declared or full.last_seconds
        return full


def _packets(container: InputContainer, stream: av.VideoStream, full: FullDecode) -> Iterator[av.Packet]:
    try:
        yield from container.demux(stream)
    except DAMAGE as error:
        full.failure = error_reason(error)


def _decode(packet: av.Packet, codec: av.VideoCodecContext, full: FullDecode, errors: list) -> None:
    errors.clear()
    WORK.advance(codec.width * codec.height)
    full.num_packets += bool(packet.size)
    is_leading = full.is_leading(packet)
    full.longest_packet = max(full.longest_packet, packet.duration or 0)
    # In a transport stream the mark only means that a counter jumped, as where two files were joined.
    is_damaged = packet.is_corrupt and full.container != "mpegts"
    try:
        for frame in codec.decode(packet):
            full.add(frame)
    except DAMAGE:
        is_damaged = True
    is_damaged |= any(level <= av.logging.ERROR for level, _, _ in errors)
    tick = packet.pts if packet.pts is not None else packet.dts
    if is_damaged and not is_leading:
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


def checksum(frame: av.VideoFrame) -> int:
    """Return a checksum of a decoded frame."""
    is_even = not (frame.width % 2 or frame.height % 2)
    if is_even and frame.format.name in _PLAIN_FORMATS:
        return zlib.adler32(memoryview(frame.to_ndarray()))  # pyright: ignore[reportArgumentType]
    return zlib.adler32(RgbConverter((frame.width, frame.height), 0)(frame).tobytes())
