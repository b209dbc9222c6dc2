"""Agreement: how far a map is borne out by taking away what it points to.

A map of attention says where the model looked. If the score does not care for these cells more than for
others, the map is not evidence of what the model used. Two numbers say so, both beside what chance gives:
the rank correlation of the map with the losses cell by cell, and what is lost without the cells that it
ranks first. Cf. Jain and Wallace, "Attention is not Explanation", NAACL 2019.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from clipbert_jax.probing.ablation import Subject

NUM_SHUFFLES = 1000
NUM_DRAWS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankAgreement:
    """Spearman's correlation within clips, mean over clips, and the 95 % band of shuffled maps."""

    correlation: float
    low: float
    high: float

    @property
    def is_above_chance(self) -> bool:
        """Return whether the map agrees more than nearly all shuffled ones."""
        return self.correlation > self.high


def rank_agreement(
    maps: Float[np.ndarray, "k v"],
    losses: Float[np.ndarray, "k v"],
    *,
    rng: np.random.Generator,
    cells: Bool[np.ndarray, " v"] | None = None,
) -> RankAgreement:
    """Compare a map with what the number loses without each cell.

    Args:
      maps: what the map gives each cell of each clip.
      losses: minus the changes of `ablation`.
      rng: shuffles.
      cells: which are compared, such as those in the picture; None for all.
    """
    if cells is not None:
        maps, losses = maps[:, cells], losses[:, cells]
    ours, theirs = _unit_ranks(maps), _unit_ranks(losses)
    shuffled = rng.permuted(np.broadcast_to(ours, (NUM_SHUFFLES, *ours.shape)), axis=-1)
    chance = (shuffled * theirs).sum(axis=-1).mean(axis=-1)
    low, high = np.quantile(chance, (0.025, 0.975))
    return RankAgreement(
        correlation=float((ours * theirs).sum(axis=-1).mean()), low=float(low), high=float(high)
    )


def _unit_ranks(values: Float[np.ndarray, "k v"]) -> Float[np.ndarray, "k v"]:
    """Return ranks with mean 0 and length 1, ties sharing theirs; zeros where all are the same."""
    smaller = (values[:, :, None] > values[:, None, :]).sum(axis=-1)
    same = (values[:, :, None] == values[:, None, :]).sum(axis=-1)
    ranks = smaller + (same - 1) / 2
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)


def deletion_losses(
    subject: Subject,
    maps: Float[np.ndarray, "maps k v"],
    *,
    rng: np.random.Generator,
    cells: Bool[np.ndarray, " v"],
    share: float = 0.1,
) -> tuple[Float[np.ndarray, " maps"], float]:
    """Return what the number loses without the cells that each map ranks first, and without random ones.

    Args:
      subject: what is looked at.
      maps: each gives the cells of each clip a value.
      rng: draws the random cells; their mean loss over some draws is returned.
      cells: from which both are taken, such as those in the picture.
      share: of the cells of a clip that are hidden, at least one.
    """
    places = np.flatnonzero(cells)
    num_hidden = max(1, round(share * len(places)))
    random = rng.random((NUM_DRAWS, *maps.shape[1:]))
    ranked = np.concatenate([maps, random])[:, :, places]
    first = places[np.argsort(-ranked, axis=-1, kind="stable")[:, :, :num_hidden]]
    seen = np.ones((len(ranked), *maps.shape[1:]), bool)
    np.put_along_axis(seen, first, values=False, axis=-1)
    losses = subject.number - subject.numbers_with_hidden(seen_cells=seen)
    return losses[: len(maps)], float(losses[len(maps) :].mean())
