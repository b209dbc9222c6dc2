"""Faithfulness: whether the score depends on the cells that an attention map points to.

If the score depends on these cells no more than on others, the map is not evidence of what the model used.
Two numbers measure it, each compared with chance: the rank correlation of the map with the losses of
ablation, and the deletion score, which is the loss without the cells that the map ranks first. Cf. Jain and
Wallace, "Attention is not Explanation", NAACL 2019.

Chance is the same map in another place: shifted around the picture and mirrored, in all clips alike. Shuffled
cells would be too easy to beat, because neighbouring cells and the clips of a video resemble each other.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from clipbert_jax.probing.ablation import ProbedExample

Picture = tuple[int, int]
"""Rows and columns of cells that show the picture, from the upper left; the others are padding."""

SIGNIFICANT = 0.05
"""Significance level: above chance is what at most this share of moved maps reaches."""

_NUM_DRAWS = 64

Name = TypeVar("Name")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankFaithfulness:
    """Spearman's rank correlation within clips, averaged over the clips whose values differ."""

    correlation: float
    low: float
    high: float
    """Bounds of the central 90 % of moved maps."""
    chance: float
    """Share of moved maps, the map itself among them, with at least the same correlation."""
    num_moves: int

    @property
    def is_above_chance(self) -> bool:
        """Return whether the correlation is higher than that of nearly all moved maps."""
        return self.chance <= SIGNIFICANT

    @property
    def can_tell(self) -> bool:
        """Return whether the picture has enough cells for a map to be above chance."""
        return self.num_moves * SIGNIFICANT >= 1


def rank_faithfulness(
    maps: Float[np.ndarray, "k gh gw"],
    losses: Float[np.ndarray, "k gh gw"],
    *,
    picture: Picture,
    region: int = 1,
) -> RankFaithfulness:
    """Compare a map with the loss of the probe score without each cell.

    Args:
      maps: value of each cell of each clip.
      losses: minus the changes of `ablation`.
      picture: cells that are compared.
      region: side of the squares of cells that were hidden together; maps are averaged over them.
    """
    ours, theirs = (_regions(x[:, : picture[0], : picture[1]], region) for x in (maps, losses))
    has_order = (np.ptp(ours, axis=(1, 2)) > 0) & (np.ptp(theirs, axis=(1, 2)) > 0)
    if not has_order.any():
        return RankFaithfulness(correlation=0.0, low=0.0, high=0.0, chance=1.0, num_moves=0)
    ranks, expected = _unit_ranks(ours[has_order]), _unit_ranks(theirs[has_order])
    moved = np.array([(ranks[:, rows, columns] * expected).sum() for rows, columns in _moves(ranks.shape)])
    moved /= len(ranks)
    correlation = float(moved[0])
    low, high = np.quantile(moved, (SIGNIFICANT, 1 - SIGNIFICANT))
    return RankFaithfulness(
        correlation=correlation,
        low=float(low),
        high=float(high),
        chance=float(np.mean(moved > correlation - 1e-9)),
        num_moves=len(moved),
    )


def _regions(maps: Float[np.ndarray, "k gh gw"], region: int) -> Float[np.ndarray, "k rh rw"]:
    """Return the mean of each square of cells; those at the border may be smaller."""
    for axis in (1, 2):
        starts = np.arange(0, maps.shape[axis], region)
        sizes = np.diff(np.append(starts, maps.shape[axis]))
        shape = [-1 if other == axis else 1 for other in range(3)]
        maps = np.add.reduceat(maps, starts, axis=axis) / sizes.reshape(shape)
    return maps


def _moves(shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the indices of all shifts of a map and of its mirror images, the map itself first."""
    num_rows, num_columns = shape[1:]
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    signs = [(x, y) for x, y in signs if (num_rows > 2 or x == 1) and (num_columns > 2 or y == 1)]
    for (down, right), row, column in itertools.product(signs, range(num_rows), range(num_columns)):
        rows = (row + down * np.arange(num_rows)) % num_rows
        yield rows[:, None], (column + right * np.arange(num_columns)) % num_columns


def _unit_ranks(values: Float[np.ndarray, "k gh gw"]) -> Float[np.ndarray, "k gh gw"]:
    """Return ranks within clips, scaled to mean 0 and length 1; ties share a rank."""
    flat = values.reshape(len(values), -1)
    smaller = (flat[:, :, None] > flat[:, None, :]).sum(axis=-1)
    same = (flat[:, :, None] == flat[:, None, :]).sum(axis=-1)
    ranks = smaller + (same - 1) / 2
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    return (ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)).reshape(values.shape)


def deletion_losses(
    example: ProbedExample,
    maps: Float[np.ndarray, "maps k gh gw"],
    *,
    rng: np.random.Generator,
    picture: Picture,
    share: float = 0.1,
) -> tuple[Float[np.ndarray, " maps"], Float[np.ndarray, " draws"]]:
    """Return the deletion score of each map, and those of moved maps, for chance.

    It is the loss of the probe score without the cells that the map ranks first. All maps share the draws for
    chance, as each costs a pass of all clips.

    Args:
      example: video and text.
      maps: value of each cell of each clip, by map.
      rng: generator that draws maps and moves.
      picture: cells that can be hidden.
      share: share of the cells of a clip that are hidden; at least one is.
    """
    inside = maps[:, :, : picture[0], : picture[1]]
    moves = list(_moves(inside.shape[1:]))
    moves = moves[1:] or moves  # the first leaves a map where it is
    draws = [
        inside[rng.integers(len(inside))][:, rows, columns]
        for rows, columns in (moves[rng.integers(len(moves))] for _ in range(_NUM_DRAWS))
    ]
    values = np.full((len(maps) + _NUM_DRAWS, *maps.shape[1:]), -np.inf)
    values[:, :, : picture[0], : picture[1]] = np.concatenate([inside, np.stack(draws)])
    flat = values.reshape(len(values), maps.shape[1], -1)
    num_hidden = max(1, round(share * picture[0] * picture[1]))
    first = np.argsort(-flat, axis=-1, kind="stable")[:, :, :num_hidden]
    seen = np.ones(flat.shape, bool)
    np.put_along_axis(seen, first, values=False, axis=-1)
    losses = example.number - example.numbers_with_hidden(seen_cells=seen)
    return losses[: len(maps)], losses[len(maps) :]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapFaithfulness:
    """Faithfulness of one map in one video."""

    rank: RankFaithfulness
    loss: float
    """Loss of the score without the cells that the map ranks first: the deletion score."""
    random_loss: float
    """Mean loss without the cells that moved maps rank first."""
    high_loss: float
    """Loss that 95 % of moved maps stay below."""

    @property
    def is_costlier(self) -> bool:
        """Return whether the map finds costlier cells than nearly all moved ones."""
        return self.loss > self.high_loss

    @property
    def is_faithful(self) -> bool:
        """Return whether the map passes both tests."""
        return self.rank.is_above_chance and self.is_costlier


def map_faithfulness(
    example: ProbedExample,
    maps: Mapping[Name, Float[np.ndarray, "k gh gw"]],
    losses: Float[np.ndarray, "k gh gw"],
    *,
    rng: np.random.Generator,
    picture: Picture,
    region: int = 1,
) -> dict[Name, MapFaithfulness]:
    """Return the faithfulness of each map; arguments as in `rank_faithfulness` and `deletion_losses`."""
    of_maps, of_moved = deletion_losses(example, np.stack([*maps.values()]), rng=rng, picture=picture)
    return {
        name: MapFaithfulness(
            rank=rank_faithfulness(of_cells, losses, picture=picture, region=region),
            loss=loss,
            random_loss=float(of_moved.mean()),
            high_loss=float(np.quantile(of_moved, 1 - SIGNIFICANT)),
        )
        for (name, of_cells), loss in zip(maps.items(), of_maps.tolist(), strict=True)
    }
