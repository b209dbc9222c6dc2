"""The picture of `clipbert explain-sampling`: clips on the time axis of a video, with their frames below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data_pipelines.clips import VideoClips
from data_pipelines.decoding.video import Video
from data_pipelines.sampling import ChosenFrames

_WIDTH, _MARGIN, _GAP = 14.0, 0.45, 0.14
"""Width of the figure, its border, and the gap between clips, in inches like all sizes here."""
_TITLE_LINE, _LANE, _STRIP, _AXIS, _CAPTION = 0.26, 0.26, 0.5, 0.62, 0.3
_MAX_PICTURE = 3.2
_PICTURES_PER_ROW = 8
SHOWN_SIZE = 320
"""Longer side of a frame in pixels."""
_INK, _FAINT, _PAPER = "#1f2933", "#9aa5b1", "#f4f6f8"


def draw(video: Video, clips: VideoClips, *, title: str, path: Path) -> None:
    """Write the picture as .png, .svg or .pdf.

    Args:
      video: the video whose time axis is drawn.
      clips: its clips, with frames of `SHOWN_SIZE`.
      title: lines above the picture; the first is bold.
      path: path of the picture.
    """
    chosen, pictures = clips.chosen, clips.shown[:, :_PICTURES_PER_ROW]
    lines = [line for part in title.split("\n") for line in textwrap.wrap(part, 130) or [""]]
    lanes = _lanes(_spans(chosen))
    colors = [matplotlib.colormaps["turbo"](v) for v in np.linspace(0.08, 0.92, len(lanes))]
    boxes = _picture_boxes(pictures.shape)
    timeline_height = _LANE * (max(lanes) + 1) + _STRIP
    top = _MARGIN * 0.7 + _TITLE_LINE * len(lines)
    below = top + 0.15 + timeline_height + _AXIS
    height = below + boxes[-1][1] + boxes[-1][3] + _MARGIN
    figure = Figure(figsize=(_WIDTH, height), dpi=110, facecolor="white")

    def place(left: float, down: float, width: float, tall: float) -> Any:
        return figure.add_axes((left / _WIDTH, 1 - (down + tall) / height, width / _WIDTH, tall / height))

    for number, line in enumerate(lines):
        figure.text(
            _MARGIN / _WIDTH,
            1 - (_MARGIN * 0.6 + _TITLE_LINE * number) / height,
            line,
            va="top",
            color=_INK,
            fontsize=11 if number else 13,
            fontweight="normal" if number else "bold",
        )
    timeline = place(_MARGIN, top + 0.15, _WIDTH - 2 * _MARGIN, timeline_height)
    _draw_timeline(timeline, video, chosen, lanes, colors)
    for clip, (left, down, width, tall) in enumerate(boxes):
        axes = place(_MARGIN + left, below + down, width, tall)
        _draw_clip(axes, clip, pictures[clip], chosen.times[clip], colors[clip])
    figure.savefig(path)


def _picture_boxes(shape: Sequence[int]) -> list[tuple[float, float, float, float]]:
    """Return left, top, width and height of the pictures of each clip, which stand side by side in rows."""
    num_clips, per_clip, height, width, _ = shape
    per_row = max(1, _PICTURES_PER_ROW // per_clip)
    cell = (_WIDTH - 2 * _MARGIN - _GAP * (per_row - 1)) / per_row
    tall = min(cell / per_clip * height / width, _MAX_PICTURE)
    wide = tall * width / height * per_clip
    step = tall + _CAPTION + _GAP
    return [
        ((clip % per_row) * (cell + _GAP), (clip // per_row) * step + _CAPTION, wide, tall)
        for clip in range(num_clips)
    ]


def _spans(chosen: ChosenFrames) -> list[tuple[float, float]]:
    """Return the wanted times of the first and the last frame of each clip."""
    return [(float(times[0]), float(times[-1])) for times in chosen.wanted_times]


def _lanes(spans: list[tuple[float, float]]) -> list[int]:
    """Return the first lane, from the top, in which each clip does not overlap another."""
    lanes: list[int] = []
    for start, end in spans:
        taken = {
            lane
            for lane, (other_start, other_end) in zip(lanes, spans, strict=False)
            if start <= other_end and other_start <= end
        }
        lanes.append(next(lane for lane in range(len(spans)) if lane not in taken))
    return lanes


def _draw_timeline(
    axes: Any, video: Video, chosen: ChosenFrames, lanes: list[int], colors: Sequence[Any]
) -> None:
    """Draw spans in lanes above a strip with a tick for every frame; y is in inches, downwards."""
    times, keys = video.index.frame_times, video.index.key_frames
    end = max(video.index.duration, float(chosen.wanted_times.max()), 1e-3)
    bottom = _LANE * (max(lanes) + 1)
    axes.axvspan(0, video.index.duration, color=_PAPER, linewidth=0, zorder=0)
    for start, stop in video.health.damaged_ranges:
        axes.axvspan(start, stop, color="#fbd5d5", linewidth=0, zorder=0)
    thin = min(1.0, max(0.2, 400 / len(times)))
    axes.vlines(times, bottom + 0.14, bottom + 0.34, color=_FAINT, linewidth=thin)
    axes.vlines(times[keys], bottom + 0.14, bottom + 0.46, color=_INK, linewidth=1.4)
    for clip, (start, stop) in enumerate(_spans(chosen)):
        upper = _LANE * lanes[clip]
        width = max(stop - start, 0.004 * end)
        box = Rectangle((start, upper + 0.04), width, _LANE - 0.08, color=colors[clip], alpha=0.35, lw=0)
        axes.add_patch(box)
        shown = chosen.times[clip]
        axes.vlines(shown, upper + 0.04, bottom + 0.14, color=colors[clip], linewidth=0.8, alpha=0.6)
        axes.plot(shown, np.full(len(shown), bottom + 0.1), "v", color=colors[clip], markersize=6)
        axes.text(start + width / 2, upper + _LANE / 2, clip + 1, ha="center", va="center", fontsize=9)
    axes.set_xlim(-0.004 * end, 1.004 * end)
    axes.set_ylim(bottom + _STRIP, 0)
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)
    legend = "seconds after the first frame     ▼ frame shown     | frame (long: key frame)"
    axes.set_xlabel(legend, fontsize=9, color=_INK)


def _draw_clip(axes: Any, clip: int, pictures: np.ndarray, times: np.ndarray, color: Any) -> None:
    axes.imshow(np.concatenate(list(pictures), axis=1), aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(color)
        spine.set_linewidth(3)
    shown = ", ".join(f"{time:.2f}" for time in times[: len(pictures)])
    more = ", ..." if len(times) > len(pictures) else ""
    axes.set_title(f"$\\bf{{{clip + 1}}}$   {shown}{more} s", fontsize=9, color=_INK, loc="left", pad=4)
