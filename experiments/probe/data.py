"""Packs the maps of a probe for the script of its page, in as much detail as fits.

Each map is stored as whole steps of its own unit (value = step * unit), so that a weak map keeps its shape
and the page can still show true shares. The tokens of a word are merged first.
"""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from experiments.probe.views import ProbePage, WordView

MAX_BYTES = 5_000_000
"""Largest size of a page."""

FULL_FRAME_SIDE = 720
_STEPS, _COARSE_STEPS = 255, 15

Maps = Float[np.ndarray, "layers heads k w gh gw"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detail:
    """Level of detail of a page."""

    frame_side: int = FULL_FRAME_SIDE
    """Largest number of pixels of the longer side of a frame."""
    head_steps: int | None = _STEPS
    """Number of steps between 0 and the largest value in the map of a head; None: only means over heads."""
    is_last_layers_only: bool = False

    @property
    def notes(self) -> list[str]:
        """Sentence about the details that are missing."""
        lacks = []
        if self.frame_side < FULL_FRAME_SIDE:
            lacks.append(f"frames have at most {self.frame_side} pixels on a side")
        if self.head_steps is None:
            lacks.append("maps of single heads are missing, so attention is the mean over heads")
        elif self.head_steps < _STEPS:
            lacks.append(f"maps of single heads are rounded to {self.head_steps} steps")
        if self.is_last_layers_only:
            lacks.append("only maps of the last two layers are kept")
        return [f"To keep this page under {MAX_BYTES / 1e6:g} MB, {'; '.join(lacks)}."] if lacks else []


DETAILS = (
    Detail(),
    Detail(frame_side=480),
    Detail(frame_side=320),
    Detail(frame_side=320, head_steps=_COARSE_STEPS),
    Detail(frame_side=320, head_steps=None),
    Detail(frame_side=160, head_steps=None),
    Detail(frame_side=160, head_steps=None, is_last_layers_only=True),
    Detail(frame_side=96, head_steps=None, is_last_layers_only=True),
)
"""Levels from the fullest on; a page takes the first that fits."""


def pack_maps(page: ProbePage, detail: Detail) -> dict[str, dict[str, Any]]:
    """Return all maps by kind; head 0 of `attention` is the mean over heads."""
    words = page.words
    attention = by_word(page.text_to_grid, words, np.mean)
    heads = [] if detail.head_steps is None else [attention]
    steps = [_STEPS] + [detail.head_steps or 0] * (attention.shape[1] if heads else 0)
    kinds = {
        "attention": np.concatenate([attention.mean(axis=1, keepdims=True), *heads], axis=1),
        # The attention of a cell to a word is the sum over its tokens.
        "picture": by_word(page.grid_to_text, words, np.sum)[:, None],
        "gradient": by_word(page.gradient_weighted, words, np.mean)[:, None],
        "rollout": by_word(page.rollout, words, np.mean)[None, None],
    }
    inside = picture_cells(page)
    kept = slice(-2, None) if detail.is_last_layers_only else slice(None)
    packed = {
        kind: _packed(maps[kept], np.array(steps if kind == "attention" else [_STEPS]), inside)
        for kind, maps in kinds.items()
    }
    return packed | {"ablation": {"layers": 1, "heads": 1, "words": 1, "values": pack(page.cell_changes)}}


def by_word(maps: np.ndarray, words: Sequence[WordView], merge: Any) -> np.ndarray:
    """Turn maps of tokens [... l gh gw] into maps of words [... w gh gw]."""
    merged = [merge(maps[..., list(word.tokens), :, :], axis=-3) for word in words]
    return np.stack(merged, axis=-3, dtype=np.float32)


def quantise(maps: Maps, num_steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whole steps as uint8 [layers heads k w gh gw] and the value of a step [layers heads k w].

    Args:
      maps: maps without negative values.
      num_steps: number of steps between 0 and the largest value of a map, by head.
    """
    units = maps.max(axis=(-2, -1)) / num_steps[:, None, None].astype(np.float32)
    safe = np.where(units > 0, units, 1)[..., None, None]
    return np.rint(maps / safe).clip(0, 255).astype(np.uint8), units


def picture_cells(page: ProbePage) -> np.ndarray:
    """Return which cells [gh gw] the picture touches; the others are padding."""
    num_rows, num_columns = page.cell_changes.shape[1:]
    rows = np.arange(num_rows) < page.height_share * num_rows - 1e-6
    columns = np.arange(num_columns) < page.width_share * num_columns - 1e-6
    return rows[:, None] & columns


def _packed(maps: Maps, num_steps: np.ndarray, inside: np.ndarray) -> dict[str, Any]:
    """Return maps with their sums over picture and padding, since steps are too coarse to add up."""
    steps, units = quantise(maps, num_steps)
    return {
        "layers": maps.shape[0],
        "heads": maps.shape[1],
        "words": maps.shape[3],
        "values": pack(steps, np.uint8),
        "units": pack(units),
        "onPicture": pack(np.where(inside, maps, 0).sum(axis=(-2, -1))),
        "onPadding": pack(np.where(inside, 0, maps).sum(axis=(-2, -1))),
    }


def pack(array: np.ndarray, dtype: npt.DTypeLike = "<f4") -> str:
    """Return the compressed bytes of an array in base64."""
    return base64.b64encode(zlib.compress(array.astype(dtype).tobytes())).decode()
