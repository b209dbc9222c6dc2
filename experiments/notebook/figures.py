"""Figures of the notebooks: clips, texts, maps over frames, scores, probes. Arrays in, a figure out.

Frames are the padded squares that the model gets. Its grid covers them, so maps are drawn over the whole
square, and padding is hatched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from clipbert_jax.probing.linear_probes import ProbeAccuracy
from data_pipelines.synthetic.boxes import ObjectTrack
from data_pipelines.synthetic.texts import event_text

_SIDE = 1.5
"""Side of a frame in inches."""
_LONG_NAME = 12
"""Number of letters from which the names of bars are slanted."""
_DARKEST = 0.2
"""Brightness of a frame where a map is lowest."""
_INK, _FAINT, _OURS, _OTHER = "#1f2933", "#c3ccd5", "#1f6fb2", "#d1662c"
_EVENT_COLOURS = ("#f2c14e", "#7fb069", "#b58bd1", "#e07a5f")


def clips_figure(
    frames: UInt8[np.ndarray, "m n h w 3"], row_names: Sequence[str], column_names: Sequence[str]
) -> Figure:
    """Show frames, a row for each video, a column for each clip."""
    figure, axes = _grid(frames.shape[0], frames.shape[1], row_names, column_names)
    for of_row, row in zip(axes, frames, strict=True):
        for ax, frame in zip(of_row, row, strict=True):
            ax.imshow(frame)
    return figure


def texts_figure(tokens: Sequence[Sequence[str]], mask: Bool[np.ndarray, "n l"]) -> Figure:
    """Show the tokens of texts in cells; those that the mask leaves out are grey."""
    figure = Figure(figsize=(0.85 * mask.shape[1], 0.4 * len(mask) + 0.3), layout="constrained")
    ax = figure.add_subplot()
    ax.imshow(mask, cmap="Blues", vmin=0, vmax=3, aspect="auto")
    for row, words in enumerate(tokens):
        for column, word in enumerate(words):
            colour = _INK if mask[row, column] else "#9aa5b1"
            ax.text(column, row, word, ha="center", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(mask.shape[1]))
    ax.set_yticks(range(len(mask)), [f"text {row}" for row in range(len(mask))])
    ax.xaxis.tick_top()
    return figure


def times_figure(
    duration: float, tracks: Sequence[ObjectTrack], times: Mapping[str, Float[np.ndarray, "k t"]]
) -> Figure:
    """Show when a video shows its objects, and the times of the clips of each way of sampling."""
    figure = Figure(figsize=(10, 0.5 * len(times) + 1.0), layout="constrained")
    ax = figure.add_subplot()
    for track, colour in zip(tracks, _EVENT_COLOURS, strict=False):
        ax.axvspan(track.times[0], track.times[-1], color=colour, alpha=0.5, linewidth=0)
        ax.text(track.times.mean(), -0.75, event_text(track.event), ha="center", va="center", color=_INK)
    for row, of_sampling in enumerate(times.values()):
        ax.plot(of_sampling.ravel(), np.full(of_sampling.size, row), "|", color=_INK, markersize=18, mew=2)
    ax.set_yticks(range(len(times)), list(times))
    ax.set_ylim(len(times) - 0.4, -1.1)
    ax.set_xlim(0, duration)
    ax.set_xlabel("seconds; shaded: an object is shown")
    return figure


def maps_figure(
    frames: UInt8[np.ndarray, "m h w 3"],
    maps: Float[np.ndarray, "m n gh gw"],
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    in_picture: Bool[np.ndarray, "gh gw"],
    targets: Bool[np.ndarray, "m n gh gw"] | None = None,
) -> Figure:
    """Brighten frames by maps, each scaled by its largest value; a dot marks that cell.

    Args:
      frames: one for each row.
      maps: brightness of each cell; negative values count as 0.
      row_names: names of the rows.
      column_names: names of the columns.
      in_picture: cells that are not padding; the others are hatched.
      targets: cells that are outlined, such as those of the object.
    """
    figure, axes = _grid(maps.shape[0], maps.shape[1], row_names, column_names)
    for row, frame in enumerate(frames):
        for column, ax in enumerate(axes[row]):
            of_cells = maps[row, column]
            ax.imshow(_lit(frame, of_cells), extent=(0, frame.shape[1], frame.shape[0], 0))
            _outline(ax, ~in_picture, frame.shape, fill=False, hatch="////", linewidth=0, edgecolor=_FAINT)
            if targets is not None:
                _outline(
                    ax, targets[row, column], frame.shape, fill=False, edgecolor="#4de94c", linewidth=1.2
                )
            y, x = np.unravel_index(of_cells.argmax(), of_cells.shape)
            cell = frame.shape[0] / of_cells.shape[0], frame.shape[1] / of_cells.shape[1]
            ax.plot((x + 0.5) * cell[1], (y + 0.5) * cell[0], "o", color="white", markersize=4)
    return figure


def _lit(
    frame: UInt8[np.ndarray, "h w 3"], of_cells: Float[np.ndarray, "gh gw"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the frame, darker where the map is low; it keeps its colours, which tell objects apart."""
    light = np.clip(of_cells, 0, None) / max(float(of_cells.max()), 1e-12)
    rows, columns = (np.arange(n) * cells // n for n, cells in zip(frame.shape, light.shape, strict=False))
    brightness = _DARKEST + (1 - _DARKEST) * light[rows[:, None], columns]
    return np.rint(frame * brightness[..., None]).astype(np.uint8)


def _outline(ax: Any, cells: Bool[np.ndarray, "gh gw"], shape: tuple[int, ...], **style: Any) -> None:
    height, width = shape[0] / cells.shape[0], shape[1] / cells.shape[1]
    for row, column in np.argwhere(cells).tolist():
        ax.add_patch(Rectangle((column * width, row * height), width, height, **style))


def bars_figure(
    groups: Mapping[str, Mapping[str, float]], label: str, *, line: float | None = None
) -> Figure:
    """Show groups of bars, such as the score of each clip for each text; `line` is a reference value."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    is_long = max(map(len, groups)) > _LONG_NAME
    size = 1.5 + 0.32 * len(groups) * (len(names) + 1), 4.0 if is_long else 2.8
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.add_subplot()
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        values = [group.get(name, np.nan) for group in groups.values()]
        ax.bar(np.arange(len(groups)) + (number - (len(names) - 1) / 2) * width, values, width, label=name)
    style: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    ax.set_xticks(range(len(groups)), list(groups), **style)
    ax.axhline(0, color=_INK, linewidth=0.8)
    if line is not None:
        ax.axhline(line, color=_INK, linewidth=1, linestyle=":")
    ax.set_ylabel(label)
    if len(names) > 1:
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def probes_figure(probes: Mapping[str, Mapping[str, Sequence[ProbeAccuracy]]]) -> Figure:
    """Show accuracy by layer, a panel for each property, a line for each model; bars are 95 % intervals."""
    figure = Figure(figsize=(3.6 * len(probes), 3.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(probes), sharey=True))
    for ax, (title, models) in zip(panels, probes.items(), strict=True):
        for (name, layers), colour in zip(models.items(), (_OURS, _OTHER, _INK), strict=False):
            values = np.array([[one.accuracy, one.low, one.high, one.control] for one in layers])
            places, spread = np.arange(len(layers)), abs(values[:, 1:3].T - values[:, 0])
            ax.errorbar(places, values[:, 0], spread, color=colour, marker="o", capsize=3, label=name)
            ax.plot(places, values[:, 3], color=colour, linestyle=":", label=f"{name}, control task")
        chance = next(iter(models.values()))[0].chance
        ax.axhline(chance, color=_FAINT, label="most frequent label")
        ax.set_title(title)
        ax.set_xticks(range(len(next(iter(models.values())))))
        ax.set_xlabel("layers passed")
        ax.set_ylim(0, 1.03)
    panels[0].set_ylabel("accuracy on other images")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def _grid(
    num_rows: int, num_columns: int, row_names: Sequence[str], column_names: Sequence[str]
) -> tuple[Figure, np.ndarray]:
    """Return axes without ticks, with names at the left and above."""
    figure = Figure(figsize=(_SIDE * num_columns + 0.8, _SIDE * num_rows + 0.5), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for ax in axes.ravel():
        ax.set_xticks([])
        ax.set_yticks([])
    for ax, name in zip(axes[:, 0], row_names, strict=True):
        ax.set_ylabel(name, fontsize=9)
    for ax, name in zip(axes[0], column_names, strict=True):
        ax.set_title(name, fontsize=9)
    return figure, axes
