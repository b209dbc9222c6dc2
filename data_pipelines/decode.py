"""Stage 2 of the corridor: from video bytes to the wanted frames, in one pass.

A full decode at ingest (`probe`) finds out when every frame is shown and where decoding may start. Later
`read_frames` opens the file once, reads its packets once, and decodes only from the key frame before a
wanted frame up to that frame. Before: the corpus; after: `sampling` (which frames) and `transforms`.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8

from clipbert_jax.errors import UserError

_UNKNOWN_PTS = -(2**63)
"""`first_pts` of a video whose packets cannot be found by time: it is decoded from its start."""

_TOLERANT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Options for files whose metadata are not UTF-8: PyAV 18 refuses them unless told, 19 never does."""


class UnreadableVideo(UserError):  # noqa: N818, it names the video, not the code
    """A video file that cannot be decoded, with the reason."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)  # arguments as given, so that it can come out of a worker
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the video {self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameIndex:
    """When every frame of a video is shown, and how to get at it; made once, by `probe`."""

    frame_times: Float[np.ndarray, " f"]
    """Seconds after the first frame, rising (float64)."""
    key_frames: Int[np.ndarray, " g"]
    """Positions in `frame_times` where decoding may start."""
    first_pts: int
    """Time stamp of the first frame in the units of the stream."""
    width: int
    """Pixels as displayed, that is after `rotation`."""
    height: int
    rotation: int
    """Degrees counter-clockwise that the stored frames are turned by for display: 0, 90, 180 or 270."""
    duration: float
    """Seconds from the first frame to the end of the last one."""


def probe(video: bytes | Path, *, name: str | None = None) -> tuple[bytes, FrameIndex]:
    """Decode a whole video and return its bytes and its index.

    Random access is tried out on every second frame against the full decode; a file where it gives other
    pixels (missing or disordered time stamps, open groups of pictures) is always decoded from its start.

    Args:
      video: the file, or its bytes.
      name: what errors call it; the path by default.

    Raises:
      UnreadableVideo: empty, not a video, truncated, no video stream, no frame.
    """
    name = name or (str(video) if isinstance(video, Path) else "(bytes)")
    data = video.read_bytes() if isinstance(video, Path) else video
    if not data:
        raise UnreadableVideo(name, "the file is empty")
    try:
        index, checksums = _decode_everything(data)
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableVideo(name, _reason(error)) from error
    return data, _with_tested_seeking(data, index, checksums)


def read_frames(
    video: bytes, frame_indices: Int[np.ndarray, " m"], index: FrameIndex
) -> UInt8[np.ndarray, "m h w 3"]:
    """Return RGB frames at native size, equal to the bit to those of a full decode.

    Args:
      video: the file's bytes.
      frame_indices: positions in `index.frame_times`, any order, repeats allowed.
      index: made by `probe` from the same bytes.

    Raises:
      UnreadableVideo: a wanted frame does not come out; the bytes are not those of the index.
    """
    wanted, places = np.unique(frame_indices, return_inverse=True)
    width, height = index.width, index.height
    to_rgb = _RgbConverter((height, width) if index.rotation % 180 else (width, height), index.rotation)
    try:
        with av.open(io.BytesIO(video), "r", **_TOLERANT) as container:
            if index.first_pts == _UNKNOWN_PTS:
                found = _read_from_start(container, wanted)
            else:
                found = _read_from_key_frames(container, wanted, index)
            frames = {position: to_rgb(frame) for position, frame in found}
    except av.FFmpegError as error:
        raise UnreadableVideo("(bytes)", _reason(error)) from error
    missing = [int(position) for position in wanted if position not in frames]
    if missing:
        raise UnreadableVideo("(bytes)", f"frames {missing} of its index cannot be decoded")
    return np.stack([frames[position] for position in wanted.tolist()])[places]


class _RgbConverter:
    """Makes RGB arrays of one size, turned as they are to be displayed.

    One size, because a stream may change its own; that of its first frame counts, whatever is asked for.
    """

    def __init__(self, stored_size: tuple[int, int], rotation: int):
        self._reformatter = VideoReformatter()
        self._width, self._height = stored_size
        self._quarter_turns = rotation // 90

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        pixels = self._reformatter.reformat(frame, self._width, self._height, "rgb24").to_ndarray()
        return np.rot90(pixels, self._quarter_turns) if self._quarter_turns else pixels


def _decode_everything(data: bytes) -> tuple[FrameIndex, list[int]]:
    """Return the index, as if seeking worked, and a checksum of every frame's pixels."""
    pts: list[int | None] = []
    key_frames: list[int] = []
    checksums: list[int] = []
    to_rgb = None
    with av.open(io.BytesIO(data), "r", **_TOLERANT) as container:
        stream = _video_stream(container)
        for frame in container.decode(stream):
            if to_rgb is None:
                rotation = round(frame.rotation / 90) * 90 % 360
                to_rgb = _RgbConverter((frame.width, frame.height), rotation)
            pixels = to_rgb(frame)
            if frame.key_frame:
                key_frames.append(len(pts))
            pts.append(frame.pts)
            checksums.append(zlib.crc32(pixels.tobytes()))
        if not pts:
            raise ValueError("no frame of its video stream can be decoded")
        num_declared = stream.frames
        if len(pts) < num_declared - max(2, num_declared // 20):
            raise ValueError(
                f"only {len(pts)} of {num_declared} frames can be decoded; the file is truncated"
            )
        times, first_pts = _frame_times(pts, stream)
    frame_seconds = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    index = FrameIndex(
        frame_times=times,
        key_frames=np.asarray(key_frames or [0], np.int64),
        first_pts=first_pts,
        width=pixels.shape[1],
        height=pixels.shape[0],
        rotation=rotation,
        duration=float(times[-1]) + frame_seconds,
    )
    return index, checksums


def _frame_times(pts: list[int | None], stream: av.VideoStream) -> tuple[Float[np.ndarray, " f"], int]:
    """Return seconds after the first frame, and the first time stamp if all are there and rise."""
    known = [tick for tick in pts if tick is not None]
    if len(known) == len(pts) and stream.time_base and all(a < b for a, b in itertools.pairwise(known)):
        ticks = np.asarray(known, np.int64)
        return (ticks - ticks[0]) * float(stream.time_base), int(ticks[0])
    rate = float(stream.average_rate or stream.base_rate or 25)
    return np.arange(len(pts)) / rate, _UNKNOWN_PTS


def _with_tested_seeking(data: bytes, index: FrameIndex, checksums: list[int]) -> FrameIndex:
    """Return the index, without random access if it fails to reproduce every second frame."""
    every_second = np.arange(len(checksums) - 1, -1, -2)
    for start in range(0, len(every_second), 64):  # in portions, to bound memory
        portion = every_second[start : start + 64]
        try:
            frames = read_frames(data, portion, index)
        except UnreadableVideo:
            frames = []
        if [zlib.crc32(f.tobytes()) for f in frames] != [checksums[i] for i in portion]:
            return dataclasses.replace(index, first_pts=_UNKNOWN_PTS, key_frames=np.zeros(1, np.int64))
    return index


def _video_stream(container: InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise ValueError("it has no video stream")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    return stream


def _read_from_start(
    container: InputContainer, wanted: Int[np.ndarray, " u"]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the wanted frames by counting."""
    remaining = set(wanted.tolist())
    for position, frame in enumerate(container.decode(_video_stream(container))):
        if position in remaining:
            remaining.remove(position)
            yield position, frame
        if not remaining:
            return


def _read_from_key_frames(
    container: InputContainer, wanted: Int[np.ndarray, " u"], index: FrameIndex
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the wanted frames, decoding for each group of pictures only what comes before its last one."""
    stream = _video_stream(container)
    codec = stream.codec_context
    assert stream.time_base is not None  # or `_frame_times` had found no first_pts
    ticks = index.first_pts + np.rint(index.frame_times[wanted] / float(stream.time_base)).astype(np.int64)
    position_of = dict(zip(ticks.tolist(), wanted.tolist(), strict=True))
    packets = [packet for packet in container.demux(stream) if packet.size]
    for start, stop in _spans(packets, position_of):
        codec.flush_buffers()
        skips = False
        for packet in packets[start:stop]:
            # A frame that nobody asked for and no other frame refers to need not be decoded.
            if skips != (packet.pts not in position_of):
                skips = not skips
                codec.skip_frame = "NONREF" if skips else "DEFAULT"
            yield from _keep(codec.decode(packet), position_of)
        yield from _keep(codec.decode(None), position_of)  # frames that wait to be put in order


def _spans(packets: list[av.Packet], position_of: dict[int, int]) -> list[tuple[int, int]]:
    """Return (start, stop) ranges of packets, each from a key frame to its last wanted frame.

    Frames decoded after a key frame but shown before it belong to the key frame before that.
    """
    last_wanted: dict[int, int] = {}
    keys: list[tuple[int, int]] = []
    for place, packet in enumerate(packets):
        if packet.is_keyframe and packet.pts is not None:
            keys.append((place, packet.pts))
        if packet.pts in position_of:
            start = next((at for at, pts in reversed(keys) if pts <= packet.pts), 0)
            last_wanted[start] = place + 1
    return sorted(last_wanted.items())


def _keep(frames: list[av.VideoFrame], position_of: dict[int, int]) -> Iterator[tuple[int, av.VideoFrame]]:
    return ((position_of[frame.pts], frame) for frame in frames if frame.pts in position_of)


def _reason(error: Exception) -> str:
    if isinstance(error, av.FFmpegError) and error.strerror:
        return f"{error.strerror[0].lower()}{error.strerror[1:]} (damaged, truncated, or not a video)"
    return str(error)
