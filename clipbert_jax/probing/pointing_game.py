"""Pointing game: does the largest value of a map fall on the object that a word names?

Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016; here the centre of a cell points.
Chance is a cell drawn at random from those in the picture.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointingAccuracy:
    """Of some maps."""

    accuracy: float
    """Share of maps that point at their object; of several largest cells, the share of those that do."""
    chance: float
    """The same for random cells of the picture."""
    num_maps: int


def centre_in_box(grid: tuple[int, int], boxes: Float[np.ndarray, "m 4"]) -> Bool[np.ndarray, "m gh gw"]:
    """Return which cells have their centre in a box.

    Args:
      grid: rows and columns.
      boxes: left, top, right and bottom, in shares of what the grid covers (that is the padded square, unless
        pooling drops pixels at its right and bottom).
    """
    y, x = ((np.arange(size) + 0.5) / size for size in grid)
    left, top, right, bottom = (boxes[:, side, None] for side in range(4))
    is_row, is_column = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return is_row[:, :, None] & is_column[:, None, :]


def pointing_accuracy(
    maps: Float[np.ndarray, "m gh gw"],
    targets: Bool[np.ndarray, "m gh gw"],
    in_picture: Bool[np.ndarray, "m gh gw"],
) -> PointingAccuracy:
    """Return how many maps point at their object; one that points into the padding misses.

    Args:
      maps: one for each word and clip.
      targets: the cells of its object.
      in_picture: the cells that are not padding.
    """
    hits, chances = pointing_hits(maps, targets), pointing_chances(targets, in_picture)
    return PointingAccuracy(accuracy=float(hits.mean()), chance=float(chances.mean()), num_maps=len(maps))


def pointing_hits(
    maps: Float[np.ndarray, "m gh gw"], targets: Bool[np.ndarray, "m gh gw"]
) -> Float[np.ndarray, " m"]:
    """Return 1 for a map that points at its object, 0 for one that does not, a share for several largest."""
    largest = maps == maps.max(axis=(1, 2), keepdims=True)
    return (largest & targets).sum(axis=(1, 2)) / largest.sum(axis=(1, 2))


def pointing_chances(
    targets: Bool[np.ndarray, "m gh gw"], in_picture: Bool[np.ndarray, "m gh gw"]
) -> Float[np.ndarray, " m"]:
    """Return the same for random cells of the picture."""
    return (targets & in_picture).sum(axis=(1, 2)) / in_picture.sum(axis=(1, 2))
