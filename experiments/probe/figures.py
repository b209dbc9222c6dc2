"""PNG figures of a probe for papers: attention of words, and changes without words, clips and heads."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from experiments.probe.data import by_word
from experiments.probe.verdicts import number, percent
from experiments.probe.views import ProbePage, WordView
from experiments.reports.words import clock

_DPI = 200
_MAX_WORDS, _MAX_CLIPS = 6, 8
"""Largest numbers of rows and columns of the overview."""
_MAX_LETTERS = 18
_LEFT, _BORDER, _GAP = 1.55, 0.62, 0.08
"""Margins of the overview in inches: for words, for lines above and below, and between frames."""
_INK, _SOFT, _FALLS, _RISES = "#1d1f23", "#63666d", "#c8622c", "#3b6fb6"
_MOST_OPAQUE = 0.85


def write_probe_figures(folder: Path, page: ProbePage) -> list[Path]:
    """Write overview.png, ablation.png and heads.png to a folder, which is made; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"overview": _overview(page), "ablation": _ablation(page), "heads": _heads(page)}
    for name, figure in figures.items():
        with warnings.catch_warnings():
            # Letters missing from the fonts become boxes; the page shows them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(folder / f"{name}.png", dpi=_DPI, facecolor="white")
    return [folder / f"{name}.png" for name in figures]


def _plain(text: str, max_letters: int = _MAX_LETTERS) -> str:
    """Return a text that Matplotlib shows literally, cut if it is long."""
    text = text.encode("utf-8", "replace").decode()
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    cut = text if len(text) <= max_letters else text[: max_letters - 1].rstrip() + "…"
    return cut.replace("$", r"\$")


def _overview(page: ProbePage) -> Figure:
    """Draw attention, mean over heads: a row for each word, a column for each clip.

    It is the attention of the last layer but one, since that of words in the last layer changes nothing.
    """
    layer = max(0, len(page.text_to_grid) - 2)
    words, clips = _shown(page.words, _MAX_WORDS), _shown(page.clips, _MAX_CLIPS)
    maps = by_word(page.text_to_grid[layer].mean(axis=0), [page.words[i] for i in words], np.mean)
    aspect = page.height_share / page.width_share
    wide = min(1.7, 2.2 / aspect)
    tall = wide * aspect
    width = max(_LEFT + len(clips) * (wide + _GAP) + 0.2, 5.0)
    height = 2 * _BORDER + len(words) * (tall + _GAP)
    figure = Figure(figsize=(width, height))
    for row, word in enumerate(words):
        top = float(maps[clips, row].max())
        for column, clip in enumerate(clips):
            x, y = _LEFT + column * (wide + _GAP), height - _BORDER - (row + 1) * (tall + _GAP)
            axes: Any = figure.add_axes((x / width, y / height, wide / width, tall / height))
            _draw_map(axes, page, page.clips[clip].frames[0], maps[clip, row], top)
            if column == 0:
                _label(axes, page.words[word])
            if row == len(words) - 1:
                axes.set_xlabel(_clip_label(page, clip), fontsize=9, color=_INK, labelpad=4)
    _title(figure, page, f"attention, layer {layer + 1} of {len(page.text_to_grid)}, mean over heads")
    return figure


def _title(figure: Figure, page: ProbePage, what: str) -> None:
    """Write the title, cut to the width of the figure."""
    width, height = figure.get_size_inches()
    about = f"{what}; one scale for each row"
    for text, down, size in ((page.text, 0.22, 11), (about, 0.42, 8.5)):
        shown = _plain(text, int(width * 115 / size))
        figure.text(0.1 / width, 1 - down / height, shown, fontsize=size, color=_INK if size > 10 else _SOFT)


def _clip_label(page: ProbePage, clip: int) -> str:
    view = page.clips[clip]
    says = number(view.score) if view.probability is None else percent(view.probability)
    when = clock(float(view.seconds[0]), page.duration)
    return f"{clip + 1}, at {when}\n{says} alone\n{number(view.change_without, '+')} without"


def _shown(views: Sequence[Any], most: int) -> list[int]:
    """Return the indices of the words or clips that change the score most, in their order."""
    known = [i for i, view in enumerate(views) if view.change_without is not None]
    sizes = {i: abs(views[i].change_without) for i in known}
    strongest = sorted(known, key=lambda i: -sizes[i] if math.isfinite(sizes[i]) else 0.0)[:most]
    return sorted(strongest)


def _label(axes: Any, word: WordView) -> None:
    """Write a word and its change to the left of its row."""
    change = word.change_without or 0.0
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right"}
    axes.annotate(_plain(word.text), (0, 0.5), (-8, 2), va="bottom", fontsize=10, color=_INK, **place)
    color = _FALLS if change < 0 else _RISES
    axes.annotate(number(change, "+"), (0, 0.5), (-8, -2), va="top", fontsize=8.5, color=color, **place)


def _draw_map(axes: Any, page: ProbePage, frame: np.ndarray, values: np.ndarray, top: float) -> None:
    """Draw a map over a frame; the grid covers the padded square, which holds the picture."""
    right, lower = 1 / page.width_share, 1 / page.height_share
    shares = values / top if top > 0 else np.zeros_like(values)
    colors = matplotlib.colormaps["inferno"](shares)
    colors[..., 3] = _MOST_OPAQUE * (0.4 + 0.6 * shares)
    axes.imshow(frame, extent=(0, 1, 1, 0), aspect="auto")
    axes.imshow(colors, extent=(0, right, lower, 0), aspect="auto", interpolation="nearest")
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)
    _bare(axes)


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _ablation(page: ProbePage) -> Figure:
    """Draw the changes of the score without each word and each clip, on one scale."""
    known = [word for word in page.words if word.change_without is not None]
    words = [(_plain(word.text), word.change_without or 0.0) for word in known]
    clips = [
        (f"{i}, at {clock(float(clip.seconds[0]), page.duration)}", clip.change_without)
        for i, clip in enumerate(page.clips, 1)
    ]
    rows = max(len(words), len(clips))
    figure = Figure(figsize=(8.6, 1.1 + 0.27 * rows), layout="constrained")
    sizes = [abs(change) for _, change in [*words, *clips] if math.isfinite(change)]
    largest = max(sizes, default=0.0) or 1.0
    for place, (name, bars) in enumerate((("Words", words), ("Clips", clips)), 1):
        axes: Any = figure.add_subplot(1, 2, place)
        _draw_bars(axes, bars, largest, rows)
        axes.set_title(name, loc="left", fontsize=11, color=_INK, fontweight="bold")
    figure.supxlabel(f"change of the score of {number(page.score)} without it", fontsize=9.5, color=_INK)
    return figure


def _draw_bars(axes: Any, bars: Sequence[tuple[str, float]], largest: float, rows: int) -> None:
    changes = [change if math.isfinite(change) else 0.0 for _, change in bars]
    colors = [_FALLS if change < 0 else _RISES for change in changes]
    axes.barh(range(len(bars)), changes, height=0.62, color=colors)
    for row, (_, change) in enumerate(bars):
        # Beside the end of the bar, so that the number covers no bar.
        side = -1 if change < 0 else 1
        place = (change if math.isfinite(change) else 0.0) + 0.03 * side * largest
        align = "right" if side < 0 else "left"
        axes.text(place, row, number(change, "+"), va="center", ha=align, fontsize=8, color=_SOFT)
    axes.axvline(0, color=_SOFT, linewidth=0.8)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=9, color=_INK)
    axes.set_xlim(-1.35 * largest, 1.35 * largest)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8, colors=_SOFT)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right", "top"]].set_visible(False)


def _heads(page: ProbePage) -> Figure:
    """Draw the changes of the score without each head, as a matrix of layers and heads."""
    changes = np.asarray(page.head_changes, np.float64)
    num_layers, num_heads = changes.shape
    largest = float(np.nanmax(np.abs(changes), initial=0.0)) or 1.0
    figure = Figure(figsize=(max(3.4, 1.9 + 0.42 * num_heads), 1.5 + 0.42 * num_layers), layout="constrained")
    axes: Any = figure.add_subplot()
    colors = LinearSegmentedColormap.from_list("change", [_FALLS, "#f7f6f3", _RISES])
    norm = TwoSlopeNorm(vcenter=0.0, vmin=-largest, vmax=largest)
    image = axes.imshow(changes, cmap=colors, norm=norm, aspect="equal")
    axes.set_xticks(range(num_heads), range(1, num_heads + 1), fontsize=8)
    axes.set_yticks(range(num_layers), range(1, num_layers + 1), fontsize=8)
    axes.set_xlabel("head", color=_INK)
    axes.set_ylabel("layer", color=_INK)
    axes.tick_params(length=0, colors=_SOFT)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.03)
    bar.set_label("change of the score without it", fontsize=9, color=_INK)
    bar.ax.tick_params(labelsize=8, colors=_SOFT)
    bar.outline.set_visible(False)
    return figure
