"""Finds the example at a position of the endless training stream, by arithmetic without state.

So any worker or process can make any batch, and training resumes at a step by starting there. `loader` calls
it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from clipbert_jax.errors import UserError

_MAX_PERIOD = 1_000_000

_ORDER = 0
"""Last part of the random key for the order of an epoch."""


class MixturePlace(NamedTuple):
    """The place of an example: its source, epoch and index."""

    source: int
    epoch: int
    index: int

    def key(self, seed: int, purpose: int) -> list[int]:
        """Return a random key of this example; keys of the first source are the same without a mixture."""
        return [seed, self.epoch, self.index, purpose] + [self.source] * (self.source > 0)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Sources that take turns, each with epochs and orders of its own.

    Shares are exact: in every period (the sum of the weights as the smallest whole numbers) each source comes
    exactly as often as its weight says, evenly spread.

    Raises:
      UserError: a weight that is not positive, or weights of too long a period.
    """

    lengths: Sequence[int]
    """Examples of an epoch of each source."""
    weights: Sequence[float]
    seed: int

    def __post_init__(self) -> None:
        _ = self._turns  # so that bad weights are refused at once

    def place(self, position: int) -> MixturePlace:
        """Return the example at a position."""
        turns, ranks, counts = self._turns
        period, turn = divmod(position, len(turns))
        source = int(turns[turn])
        epoch, within = divmod(period * counts[source] + int(ranks[turn]), self.lengths[source])
        return MixturePlace(
            source, epoch, int(_order(self.seed, epoch, self.lengths[source], source)[within])
        )

    @functools.cached_property
    def _turns(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Return the source of each turn of a period, its earlier turns, and the turns of each source."""
        counts = _whole_weights(self.weights)
        sources = np.repeat(np.arange(len(counts)), counts)
        ranks = np.concatenate([np.arange(count) for count in counts])
        due = (ranks + 0.5) / np.array(counts)[sources]
        order = np.argsort(due, kind="stable")
        return sources[order], ranks[order], counts


def _whole_weights(weights: Sequence[float]) -> list[int]:
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise UserError(f"the weights of --data.mixture must be above 0, not {list(weights)}")
    exact = [Fraction(str(weight)) for weight in weights]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    whole = [weight // math.gcd(*whole) for weight in whole]
    if sum(whole) > _MAX_PERIOD:
        raise UserError(
            f"weights {list(weights)} of --data.mixture have too many digits; use small whole numbers"
        )
    return whole


@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int, source: int) -> np.ndarray:
    key = [seed, epoch, count, _ORDER] + [source] * (source > 0)
    return np.random.default_rng(key).permutation(count)
