"""Makes small videos whose frames show their number, for the tests of decoding."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import numpy as np

from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import Examination, examine

NUM_BITS = 8


def picture(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Return a picture whose eight columns, black or white, are the bits of a number."""
    width, height = size
    columns = np.arange(width) * NUM_BITS // width
    row = np.where(number >> columns & 1, 235, 16).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)))


def number_of(pixels: np.ndarray) -> int:
    """Return the number that a picture shows."""
    height, width = pixels.shape[:2]
    centres = ((np.arange(NUM_BITS) + 0.5) * width / NUM_BITS).astype(int)
    bits = pixels[height // 4 : 3 * height // 4, centres].mean(axis=(0, 2)) > 125
    return int(np.sum(bits * 2 ** np.arange(NUM_BITS)))


def shown_numbers(data: bytes) -> tuple[Examination, list[int]]:
    """Examine a video, and return what its frames show as `read_frames` gives them."""
    examination = examine(data)
    assert examination.index is not None, examination.health.reason
    frames = read_frames(data, np.arange(len(examination.index.frame_times)), examination.index)
    return examination, [number_of(frame) for frame in frames]


def ffmpeg_numbers(data: bytes) -> list[int]:
    """Return what FFmpeg shows in the first video stream, from start to end."""
    with av.open(io.BytesIO(data)) as container:
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def numbered_video(
    numbers: Sequence[int],
    *,
    format: str = "mp4",
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    rate: int = 25,
    ticks: Sequence[int] | None = None,
    size: tuple[int, int] = (64, 48),
    set_up: Callable[[av.VideoStream], None] = lambda stream: None,
    change: Callable[[list[av.Packet]], None] = lambda packets: None,
    container_options: dict[str, str] | None = None,
) -> bytes:
    """Return a video of numbered pictures.

    Args:
      numbers: what the frames show.
      ticks: times of the frames in units of 1 / rate; default: one after the other.
      set_up: called with the stream before the first frame.
      change: called with the packets before they are written.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        set_up(stream)
        packets = []
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            frame.pts, frame.time_base = (ticks[place] if ticks else place), Fraction(1, rate)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        change(packets)
        container.mux(packets)
    return file.getvalue()


def copied(data: bytes, format: str, *, from_key_frame: int = 0, at_seconds: float | None = None) -> bytes:
    """Return a copy of a video without re-encoding, as `ffmpeg -c copy` cuts it.

    Args:
      from_key_frame: number of key frames that are left out, with all before them.
      at_seconds: time of the cut, which may lie between key frames: the lead-in stays in the file, hidden.
    """
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=format) as target:
        stream = source.streams.video[0]
        output = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
        if at_seconds is None:
            packets = packets[keys[from_key_frame] :]
            shift = packets[0].pts
        else:
            assert stream.time_base is not None
            shift = round(at_seconds / stream.time_base)
            packets = packets[max(key for key in keys if packets[key].pts <= shift) :]
        for packet in packets:
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = output
            target.mux(packet)
    return file.getvalue()
