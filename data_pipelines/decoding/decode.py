"""Decodes the wanted frames of a video in one pass; `clips` and `storage` call `read_frames`.

`examine_video` finds out at ingest when every frame is shown and where decoding may start. `read_frames`
opens the file once, reads its packets once, and decodes only from the key frame before a wanted frame up to
that frame. In long files it jumps over stretches without a wanted frame, and reads in order wherever a jump
fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import Int, UInt8

from data_pipelines.decoding.jpeg_frames import is_jpeg_frames, read_jpegs
from data_pipelines.decoding.pixels import RgbConverter
from data_pipelines.decoding.still_images import picture_kind, read_picture
from data_pipelines.decoding.streams import DAMAGE, decoded, demuxed, error_reason, open_video
from data_pipelines.decoding.video import UNKNOWN_PTS, FrameIndex, UnreadableVideo
from data_pipelines.decoding.work import WORK


def read_frames(
    video: bytes, frame_indices: Int[np.ndarray, " m"], index: FrameIndex
) -> UInt8[np.ndarray, "m h w 3"]:
    """Return RGB frames at native size, identical to those of a full decode.

    Args:
      video: bytes of the file.
      frame_indices: positions in `index.frame_times`, in any order, with or without repeats.
      index: index that `examine_video` made from the same bytes.

    Raises:
      UnreadableVideo: a wanted frame does not decode, or the bytes do not fit the index.
    """
    if is_jpeg_frames(video):
        return read_jpegs(video, frame_indices)
    if picture_kind(video):
        return read_picture(video, frame_indices)
    frame_indices = np.asarray(frame_indices)
    wanted = np.unique(frame_indices)
    width, height = index.width, index.height
    to_rgb = RgbConverter(
        (height, width) if index.rotation % 180 else (width, height),
        index.rotation,
        is_reflected=index.is_reflected,
        deinterlaces=index.is_interlaced,
    )
    frames = np.empty((len(frame_indices), height, width, 3), np.uint8)
    missing = set(wanted.tolist())
    try:
        for position, frame in wanted_frames(video, wanted, index):
            pixels = to_rgb(frame)
            for place in np.flatnonzero(frame_indices == position):
                frames[place] = pixels
            missing.discard(position)
    except (*DAMAGE, ValueError) as error:
        raise UnreadableVideo("(bytes)", error_reason(error)) from error
    if missing:
        raise UnreadableVideo("(bytes)", f"frames {sorted(missing)} of its index cannot be decoded")
    return frames


MIN_JUMP = 500
"""Number of skipped frames from which a jump costs less than reading their packets."""

_SKIPPING_DECODERS = ("h264", "mpeg4", "mpeg2video")
"""Decoders that skip exactly the frames that no other frame refers to. HEVC layers may refer to them;
the AV1 decoder applies its first setting to all frames."""


def wanted_frames(
    data: bytes, wanted: Int[np.ndarray, " u"], index: FrameIndex
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the position and the decoder's frame of each wanted position, in any order.

    Args:
      data: bytes of the file.
      wanted: positions in `index.frame_times`, each once, rising.
      index: index that `examine_video` made from the same bytes.
    """
    if index.first_pts == UNKNOWN_PTS:
        with open_video(data) as (container, stream, codec):
            yield from _read_from_start(container, stream, codec, wanted)
        return
    missing = set(wanted.tolist())
    stretches = _stretches(wanted, index)
    if stretches:
        with open_video(data) as (container, stream, codec):
            key_ticks = set(_ticks(stream, index.key_frames, index))
            for key_frame, positions in stretches:
                position_of = _ticks(stream, positions, index)
                (key_tick,) = _ticks(stream, np.array([key_frame]), index)
                packets = _jump(container, stream, key_tick, position_of)
                for position, frame in _decode(codec, packets, position_of, key_ticks):
                    missing.discard(position)
                    yield position, frame
    if missing:  # no jump pays, or one failed
        with open_video(data) as (container, stream, codec):
            position_of = _ticks(stream, np.array(sorted(missing)), index)
            with demuxed(container, stream) as all_packets:
                packets = _awaited(all_packets, position_of)
            key_ticks = set(_ticks(stream, index.key_frames, index))
            yield from _decode(codec, packets, position_of, key_ticks)


def _read_from_start(
    container: InputContainer,
    stream: av.VideoStream,
    codec: av.VideoCodecContext,
    wanted: Int[np.ndarray, " u"],
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the wanted frames by counting from the start."""
    remaining = set(wanted.tolist())
    for position, frame in enumerate(decoded(container, stream, codec)):
        if position in remaining:
            remaining.remove(position)
            yield position, frame
        if not remaining:
            return


def _stretches(wanted: Int[np.ndarray, " u"], index: FrameIndex) -> list[tuple[int, Int[np.ndarray, " v"]]]:
    """Divide wanted positions into parts, each with the key frame to jump to; empty if no jump pays."""
    keys = index.key_frames[np.maximum(0, np.searchsorted(index.key_frames, wanted, side="right") - 1)]
    passed_over = keys - np.concatenate([[0], wanted[:-1]])
    cuts = np.flatnonzero(passed_over >= MIN_JUMP)
    if not len(cuts):
        return []
    parts = [part for part in np.split(wanted, cuts) if len(part)]
    starts = [int(keys[np.searchsorted(wanted, part[0])]) for part in parts]
    return list(zip(starts, parts, strict=True))


def _ticks(stream: av.VideoStream, positions: Int[np.ndarray, " v"], index: FrameIndex) -> dict[int, int]:
    """Return the position of each time stamp."""
    assert stream.time_base is not None  # else `_frame_times` would not have found first_pts
    ticks = index.first_pts + np.rint(index.frame_times[positions] / float(stream.time_base)).astype(np.int64)
    return dict(zip(ticks.tolist(), positions.tolist(), strict=True))


def _jump(
    container: InputContainer, stream: av.VideoStream, key_tick: int, position_of: dict[int, int]
) -> list[av.Packet]:
    """Return packets from a key frame on; empty if the container's seek does not lead to it."""
    try:
        container.seek(key_tick, stream=stream)
        with demuxed(container, stream) as all_packets:
            packets = itertools.dropwhile(
                lambda packet: packet.pts is None or packet.pts < key_tick, all_packets
            )
            first = next(packets, None)
            if first is None or first.pts != key_tick or not first.is_keyframe:
                return []
            return _awaited(itertools.chain([first], packets), position_of)
    except DAMAGE:
        return []


def _awaited(packets: Iterator[av.Packet], position_of: dict[int, int]) -> list[av.Packet]:
    """Return packets up to the end of the group that holds the last wanted frame."""
    awaited, taken = set(position_of), []
    for packet in packets:
        if not awaited and packet.is_keyframe:
            break
        if packet.size:
            awaited.discard(packet.pts)
            taken.append(packet)
    return taken


def _decode(
    codec: av.VideoCodecContext, packets: list[av.Packet], position_of: dict[int, int], key_ticks: set[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the wanted frames; of each group of pictures only the part up to its last one is decoded."""
    can_skip = codec.name in _SKIPPING_DECODERS
    for start, stop in _spans(packets, position_of, key_ticks):
        codec.flush_buffers()
        skips = False
        for packet in packets[start:stop]:
            # An unwanted frame that no other frame refers to need not be decoded.
            if can_skip and skips != (packet.pts not in position_of):
                skips = not skips
                codec.skip_frame = "NONREF" if skips else "DEFAULT"
            WORK.advance(codec.width * codec.height)
            try:
                yield from _keep(codec.decode(packet), position_of)
            except DAMAGE:
                continue  # a wanted frame is reported as missing at the end
        yield from _keep(codec.decode(None), position_of)  # frames that the decoder holds back for reordering


def _spans(
    packets: list[av.Packet], position_of: dict[int, int], key_ticks: set[int]
) -> list[tuple[int, int]]:
    """Return (start, stop) ranges of packets, each from a key frame to its last wanted frame.

    Frames decoded after a key frame but shown before it belong to the previous key frame. The mark of a
    packet is not enough: with intra refresh, packets are marked as key although no decoder may start there.
    """
    last_wanted: dict[int, int] = {}
    keys: list[tuple[int, int]] = []
    for place, packet in enumerate(packets):
        if packet.is_keyframe and packet.pts is not None and packet.pts in key_ticks:
            keys.append((place, packet.pts))
        if packet.pts in position_of:
            start = next((at for at, pts in reversed(keys) if pts <= packet.pts), 0)
            last_wanted[start] = place + 1
    return sorted(last_wanted.items())


def _keep(frames: list[av.VideoFrame], position_of: dict[int, int]) -> Iterator[tuple[int, av.VideoFrame]]:
    return ((position_of[frame.pts], frame) for frame in frames if frame.pts in position_of)
