"""Decodes a whole file to find the time of every frame and any damage.

`clipbert prepare`, `doctor`, prediction, search and the web app call it. The corpus stores the result, and
`decode.read_frames` relies on it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import numpy as np
from jaxtyping import Int

from data_pipelines.decoding.containers import is_encrypted
from data_pipelines.decoding.decode import MIN_JUMP, wanted_frames
from data_pipelines.decoding.full_decode import FullDecode, checksum, decode_everything
from data_pipelines.decoding.still_images import examine_picture, picture_kind
from data_pipelines.decoding.streams import DAMAGE, error_reason
from data_pipelines.decoding.time_stamps import first_of_rising, rising_times
from data_pipelines.decoding.video import (
    MAX_PIXELS,
    UNKNOWN_PTS,
    FrameIndex,
    Health,
    UnreadableVideo,
    Video,
    square_size,
)

_NUM_TRIED = 150
"""Number of frames, spread over a file, on which random access is tried; as many near its key frames."""
_NUM_TRIED_STARTS = 4
"""Number of key frames at which a fresh decoder starts, and of key frames to jump to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examination:
    """Findings of a full decode."""

    index: FrameIndex | None
    """Index of the frames; None if the verdict is `unreadable`."""
    health: Health


def examine_video(video: bytes | Path, *, video_id: str | None = None) -> Video:
    """Decode a whole video and return it with the index of its frames.

    Args:
      video: the file, or its bytes.
      video_id: id of the video, which errors name; default: the path.

    Raises:
      UnreadableVideo: the verdict of `examine` is not `ok`.
    """
    name = video_id or (str(video) if isinstance(video, Path) else "(bytes)")
    data = video.read_bytes() if isinstance(video, Path) else video
    examination = examine(data)
    if examination.index is None or examination.health.verdict != "ok":
        raise UnreadableVideo(name, examination.health.reason)
    return Video(video_id=name, data=data, index=examination.index, health=examination.health)


def examine(data: bytes) -> Examination:
    """Decode a whole file and return the findings; bad content gives a verdict and does not raise.

    Random access at some key frames is compared with the full decode. If the pixels differ (missing or
    disordered time stamps, open groups of pictures), the file is always decoded from its start.
    """
    try:
        if not data:
            raise ValueError("the file is empty")
        if picture_kind(data):
            index, health = examine_picture(data)
            return Examination(index=index, health=health)
        return _examine_video(data)
    except UnreadableVideo as error:
        reason = error.reason
    except (*DAMAGE, ValueError) as error:
        reason = _why_not_opened(data, error)
    return Examination(index=None, health=Health(verdict="unreadable", reason=reason))


def _why_not_opened(data: bytes, error: Exception) -> str:
    """Return the reason why FFmpeg cannot open a file."""
    if is_encrypted(data):
        return "it is encrypted"
    if data[4:8] != b"ftyp" or not isinstance(error, av.FFmpegError):
        return error_reason(error)
    what = "is damaged" if b"moov" in data else "is missing"
    return (
        f"an MP4 of {len(data):,} bytes whose index (moov box) {what}: truncated, damaged or never finished"
    )


def _examine_video(data: bytes) -> Examination:
    full = decode_everything(data)
    if not full.pts:
        raise ValueError(_why_no_frame(full))
    times, time_notes = rising_times(full.pts, full.dts, time_base=full.time_base, rate=full.rate)
    first_pts = first_of_rising(full.pts) if full.time_base else None
    steps = np.diff(times)
    frame_seconds = float(np.median(steps)) if len(steps) else 1 / full.rate
    width, height = square_size(full.size, full.pixel_aspect)
    if width * height > MAX_PIXELS:
        raise ValueError(f"its frames of {width}x{height} pixels are more than {MAX_PIXELS:,}")
    if full.rotation % 180:
        width, height = height, width
    index = FrameIndex(
        frame_times=times,
        key_frames=np.asarray(full.key_frames or [0], np.int64),
        first_pts=UNKNOWN_PTS if first_pts is None else first_pts,
        width=width,
        height=height,
        rotation=full.rotation,
        is_reflected=full.is_reflected,
        duration=float(times[-1]) + (full.last_seconds or frame_seconds),
        pixel_aspect=full.pixel_aspect,
        is_interlaced=full.is_interlaced,
    )
    reason = _reason(full)
    if first_pts is not None and (reason or not _can_seek(data, index, full.checksums)):
        index = dataclasses.replace(index, first_pts=UNKNOWN_PTS, key_frames=np.zeros(1, np.int64))
    notes = full.notes + time_notes
    if index.first_pts == UNKNOWN_PTS and len(times) > 1 and not reason:
        notes += ("random access fails: decoded from its start",)
    health = Health(
        verdict="damaged" if reason else "ok",
        reason=reason,
        container=full.container,
        codec=full.codec,
        pixel_format=full.pixel_format,
        num_frames=len(times),
        num_declared_frames=full.num_declared_frames,
        start_time=full.start_time,
        fps=float((len(times) - 1) / times[-1]) if times[-1] > 0 else 0.0,
        # Containers may round time stamps to milliseconds.
        is_variable_rate=bool(np.any(np.abs(steps - frame_seconds) > max(0.1 * frame_seconds, 2e-3))),
        has_duration=full.has_duration,
        damaged_ranges=_damaged_ranges(full, index),
        notes=notes,
    )
    return Examination(index=index, health=health)


def _why_no_frame(full: FullDecode) -> str:
    if full.num_declared_frames:
        why = "damaged or encrypted" if full.num_packets else "truncated"
        return f"the header promises {full.num_declared_frames} frames, none decodes; {why}"
    return "no frame of its video stream can be decoded"


def _reason(full: FullDecode) -> str:
    """Return the reason why the video is damaged, or an empty string."""
    count = len(full.pts)
    if full.num_lost_packets and full.num_declared_frames:
        return f"only {count} of {full.num_declared_frames} frames can be decoded; the file is truncated"
    if full.is_cut_off or full.num_lost_packets:
        seconds = f" of a video of {full.declared_seconds:.4g} s" if full.declared_seconds else ""
        return f"only {count} frames{seconds} are there; the file is truncated"
    if full.failure:
        return f"after {count} frames it cannot be read further: {full.failure}"
    if full.damaged_ticks:
        return f"it does not decode cleanly at {len(full.damaged_ticks)} places (damaged, truncated)"
    return ""


def _damaged_ranges(full: FullDecode, index: FrameIndex) -> tuple[tuple[float, float], ...]:
    """Return damaged ranges, each up to the next key frame, because damage spreads up to it."""
    keys = [*index.frame_times[full.key_frames].tolist(), index.duration]
    ranges: list[tuple[float, float]] = []
    if full.time_base and full.pts[0] is not None:
        begins = [(tick - full.pts[0]) * full.time_base for tick in full.damaged_ticks]
        for begin in sorted(min(max(begin, 0.0), index.duration) for begin in begins):
            if not ranges or begin >= ranges[-1][1]:
                ranges.append((begin, next((key for key in keys if key > begin), index.duration)))
    if full.num_lost_packets or full.is_cut_off:
        ranges.append((index.duration, max(index.duration, full.declared_seconds)))
    return tuple(ranges)


def _can_seek(data: bytes, index: FrameIndex, checksums: list[int]) -> bool:
    """Tell whether random access gives the frames of the full decode at all tried positions."""
    jumps = _spread(index.key_frames[index.key_frames >= MIN_JUMP], _NUM_TRIED_STARTS)
    # A decoder that starts at a later key frame has not seen the frames before it.
    starts = _spread(index.key_frames[1:], _NUM_TRIED_STARTS)
    trials = [_tried_positions(index.key_frames, len(checksums)), *jumps[:, None]]
    trials += [np.arange(start, min(start + 3, len(checksums))) for start in starts]
    try:
        return all(
            {position: checksum(frame) for position, frame in wanted_frames(data, tried, index)}
            == {position: checksums[position] for position in tried.tolist()}
            for tried in trials
        )
    except (*DAMAGE, ValueError):
        return False


def _spread(positions: Int[np.ndarray, " n"], number: int) -> Int[np.ndarray, " m"]:
    """Return `number` of the positions, with the first and the last; all if there are fewer."""
    return (
        positions[np.unique(np.linspace(0, len(positions) - 1, number).astype(int))]
        if len(positions)
        else positions
    )


def _tried_positions(key_frames: Int[np.ndarray, " g"], num_frames: int) -> Int[np.ndarray, " u"]:
    """Choose frames spread over the file, its last ones, and those around key frames, which may need two."""
    # An odd step meets all places in regular patterns of reference frames.
    spread = np.arange(0, num_frames, max(3, num_frames // _NUM_TRIED) | 1)
    chosen = _spread(key_frames, _NUM_TRIED // 6)
    around = chosen[:, None] + np.array([-3, -2, -1, 0, 1, 2])
    positions = np.unique(np.concatenate([spread, around.ravel(), num_frames - np.arange(1, 4)]))
    return positions[(positions >= 0) & (positions < num_frames)]
