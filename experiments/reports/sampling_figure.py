"""The picture of `clipbert explain-sampling`: clips on the time axis of a video, with their frames below."""

from __future__ import annotations

import math
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

_WIDTH, _LANE, _STRIP, _AXIS, _CAPTION = 14.0, 0.26, 0.5, 0.5, 0.35
"""Width of the figure, and heights of its parts, in inches."""
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
    lanes = _lanes(_spans(chosen))
    colors = [matplotlib.colormaps["turbo"](v) for v in np.linspace(0.08, 0.92, len(lanes))]
    first, *others = [line for part in title.split("\n") for line in textwrap.wrap(part, 130)]
    num_clips, per_clip, height, width, _ = pictures.shape
    per_row = max(1, _PICTURES_PER_ROW // per_clip)
    tall = min(_WIDTH / per_row / per_clip * height / width, _MAX_PICTURE)
    heights = [_LANE * (max(lanes) + 1) + _STRIP, *[tall] * math.ceil(num_clips / per_row)]
    total = sum(heights) + 0.3 * (1 + len(others)) + _AXIS + _CAPTION * len(heights)
    figure = Figure(figsize=(_WIDTH, total), dpi=110, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    figure.suptitle(first, x=0.0075, ha="left", color=_INK, fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(len(heights), per_row, height_ratios=heights)
    timeline = figure.add_subplot(grid[0, :])
    timeline.set_title("\n".join(others), loc="left", color=_INK, fontsize=11)
    _draw_timeline(timeline, video, chosen, lanes, colors)
    for clip in range(num_clips):
        axes = figure.add_subplot(grid[1 + clip // per_row, clip % per_row], anchor="NW")
        _draw_clip(axes, clip, pictures[clip], chosen.times[clip], colors[clip])
    figure.savefig(path)


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
    axes.imshow(np.concatenate(list(pictures), axis=1))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(color)
        spine.set_linewidth(3)
    shown = ", ".join(f"{time:.2f}" for time in times[: len(pictures)])
    more = ", ..." if len(times) > len(pictures) else ""
    axes.set_title(f"$\\bf{{{clip + 1}}}$   {shown}{more} s", fontsize=9, color=_INK, loc="left", pad=4)
