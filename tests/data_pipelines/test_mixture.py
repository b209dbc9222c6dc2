"""Mixtures: exact shares, own epochs, a function of the position."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.mixture import Mixture


def places(mixture: Mixture, count: int, start: int = 0) -> list:
    return [mixture.place(position) for position in range(start, start + count)]


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.7, 0.2, 0.1), (1.0, 1.0), (5.0, 2.0, 2.0, 1.0)])
def test_every_window_has_the_shares_of_the_weights(weights):
    mixture = Mixture([7] * len(weights), weights, 0)
    shares = np.array(weights) / np.sum(weights)
    sources = np.array([place.source for place in places(mixture, 400)])
    for length in (10, 33, 100, 400):
        for start in range(0, 400 - length + 1, 7):
            counts = np.bincount(sources[start : start + length], minlength=len(weights))
            assert np.abs(counts - shares * length).max() < 2.0
    counts = np.bincount(sources[:20], minlength=len(weights))
    np.testing.assert_allclose(counts, shares * 20)


def test_each_source_has_epochs_of_its_own():
    mixture = Mixture([5, 12], [1.0, 2.0], 3)
    stream = places(mixture, 3 * 60)
    for source, length in ((0, 5), (1, 12)):
        mine = [place for place in stream if place.source == source]
        assert [p.epoch for p in mine] == [n // length for n in range(len(mine))]
        orders = [[p.index for p in mine[n : n + length]] for n in range(0, len(mine), length)]
        assert len(orders) == (60 // 5 if source == 0 else 120 // 12)
        for order in orders:
            assert Counter(order) == Counter(range(length))
        assert len({tuple(order) for order in orders}) > 1


def test_a_source_alone_is_what_it_is_first_in_a_mixture():
    alone = places(Mixture([5], [1.0], 3), 20)
    mixed = [place for place in places(Mixture([5, 9], [1.0, 1.0], 3), 40) if place.source == 0]
    assert alone == mixed
    assert [p.key(3, 1) for p in alone] == [p.key(3, 1) for p in mixed]


def test_sources_differ_in_order_and_randomness():
    mixture = Mixture([50, 50], [1.0, 1.0], 0)
    stream = places(mixture, 100)
    assert [p.index for p in stream if p.source == 0] != [p.index for p in stream if p.source == 1]
    keys = {tuple(place.key(0, purpose)) for place in stream for purpose in (1, 2)}
    assert len(keys) == 200


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, -2.0), (1.0, float("nan")), (1.0, float("inf"))])
def test_bad_weights_are_refused(weights):
    with pytest.raises(UserError, match=r"weights of --data.mixture must be above 0"):
        Mixture([3, 3], weights, 0)


def test_weights_of_a_long_period_are_refused():
    Mixture([3, 3], [0.333, 0.667], 0)
    with pytest.raises(UserError, match="too many digits"):
        Mixture([3, 3], [0.1234567, 0.8765433], 0)
