"""Pointing game: does the largest value of a map fall on the object that a word names?

Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016; here the centre of a cell points.
Chance is a random cell of the picture. A dot in the middle beats it, as objects are rarely at the border. So
there are two controls that have not seen the video: the one cell that hits most objects of the other videos,
and the maps of the other videos.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped


def centre_in_box(grid: tuple[int, int], boxes: Float[np.ndarray, "m 4"]) -> Bool[np.ndarray, "m gh gw"]:
    """Return which cells have their centre in a box.

    Args:
      grid: rows and columns.
      boxes: left, top, right and bottom, in shares of the area of the grid (the padded square, unless
        pooling drops pixels at the right and the bottom).
    """
    y, x = ((np.arange(size) + 0.5) / size for size in grid)
    left, top, right, bottom = (boxes[:, side, None] for side in range(4))
    is_row, is_column = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return is_row[:, :, None] & is_column[:, None, :]


def pointing_hits(
    maps: Float[np.ndarray, "m gh gw"], targets: Bool[np.ndarray, "m gh gw"]
) -> Float[np.ndarray, " m"]:
    """Return 1 for a map that points at its object and 0 for a miss; several largest cells give a share."""
    return (_pointers(maps) * targets).sum(axis=(1, 2))


def pointing_chances(
    targets: Bool[np.ndarray, "m gh gw"], in_picture: Bool[np.ndarray, "m gh gw"]
) -> Float[np.ndarray, " m"]:
    """Return the expected hits of random cells of the picture."""
    return (targets & in_picture).sum(axis=(1, 2)) / in_picture.sum(axis=(1, 2))


def constant_cell_hits(
    targets: Bool[np.ndarray, "m gh gw"],
    in_picture: Bool[np.ndarray, "m gh gw"],
    videos: Shaped[np.ndarray, " m"],
) -> Bool[np.ndarray, " m"]:
    """Return which objects are hit by the one cell that hits most objects of the other videos.

    Args:
      targets: cells of each object.
      in_picture: cells that are not padding. Only videos of the same shape count as other videos; without
        any, the first cell of the picture points.
      videos: video of each object.
    """
    often = _mean_of_other_videos(targets.astype(float), in_picture, videos).reshape(len(targets), -1)
    best = often.argmax(axis=1)  # of several the first
    return targets.reshape(len(targets), -1)[np.arange(len(targets)), best]


def other_video_hits(
    maps: Float[np.ndarray, "m gh gw"],
    targets: Bool[np.ndarray, "m gh gw"],
    in_picture: Bool[np.ndarray, "m gh gw"],
    videos: Shaped[np.ndarray, " m"],
) -> Float[np.ndarray, " m"]:
    """Return how often the maps of other videos hit each object; arguments as above.

    It is the mean over all maps of other videos of the same shape. Without any, a random cell points.
    """
    return (_mean_of_other_videos(_pointers(maps), in_picture, videos) * targets).sum(axis=(1, 2))


def _pointers(maps: Float[np.ndarray, "m gh gw"]) -> Float[np.ndarray, "m gh gw"]:
    """Return 1 for the largest cell of each map; several largest cells share it."""
    largest = maps == maps.max(axis=(1, 2), keepdims=True)
    return largest / largest.sum(axis=(1, 2), keepdims=True)


def _mean_of_other_videos(
    values: Float[np.ndarray, "m gh gw"],
    in_picture: Bool[np.ndarray, "m gh gw"],
    videos: Shaped[np.ndarray, " m"],
) -> Float[np.ndarray, "m gh gw"]:
    """Return the mean of the values of other videos of the same shape; a random cell without any."""
    shapes = np.unique(in_picture.reshape(len(values), -1), axis=0, return_inverse=True)[1].reshape(-1)
    names = np.unique(videos, return_inverse=True)[1]
    num_others = _sums(np.ones(len(values)), shapes) - _sums(np.ones(len(values)), names)
    sums = _sums(values, shapes) - _sums(values, names)
    random = in_picture / in_picture.sum(axis=(1, 2), keepdims=True)
    is_alone = (num_others == 0)[:, None, None]
    return np.where(is_alone, random, sums / np.maximum(num_others, 1)[:, None, None])


def _sums(values: Float[np.ndarray, "m ..."], groups: Shaped[np.ndarray, " m"]) -> Float[np.ndarray, "m ..."]:
    """Return the sum over the group of each value."""
    sums = np.zeros_like(values)
    np.add.at(sums, groups, values)
    return sums[groups]
