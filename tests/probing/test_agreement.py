"""Maps that are evidence, and maps that are not; and a game whose outcome is known."""

from __future__ import annotations

import numpy as np
import pytest

from clipbert_jax.probing.ablation import Subject
from clipbert_jax.probing.agreement import deletion_losses, rank_agreement
from clipbert_jax.probing.pointing_game import centre_in_box, pointing_accuracy


def test_the_map_of_the_losses_agrees_and_its_opposite_does_not():
    random = np.random.default_rng(0)
    losses = random.normal(size=(3, 20))
    same = rank_agreement(np.exp(losses), losses, rng=random)
    assert same.correlation == pytest.approx(1)
    assert same.is_above_chance
    opposite = rank_agreement(-losses, losses, rng=random)
    assert opposite.correlation == pytest.approx(-1)
    assert not opposite.is_above_chance


def test_correlations_are_spearman_s_within_clips():
    maps = np.array([[1.0, 2.0, 3.0, 4.0], [100.0, 100.0, 300.0, 400.0]])
    losses = np.array([[1.0, 3.0, 2.0, 4.0], [4.0, 1.0, 2.0, 3.0]])
    # By hand: 0.8, and with ties (1.5, 1.5, 3, 4) against (4, 1, 2, 3): cov 0 - see ranks.
    ranks = np.array([-1.0, -1.0, 0.5, 1.5]), np.array([1.5, -1.5, -0.5, 0.5])
    tied = ranks[0] @ ranks[1] / np.linalg.norm(ranks[0]) / np.linalg.norm(ranks[1])
    agreement = rank_agreement(maps, losses, rng=np.random.default_rng(0))
    assert agreement.correlation == pytest.approx((0.8 + tied) / 2)


def test_chance_holds_nineteen_of_twenty_random_maps():
    random = np.random.default_rng(1)
    outside = 0
    for _ in range(200):
        agreement = rank_agreement(random.random((2, 16)), random.random((2, 16)), rng=random)
        outside += not agreement.low <= agreement.correlation <= agreement.high
    assert 2 <= outside <= 22


def test_a_map_without_differences_says_nothing():
    agreement = rank_agreement(
        np.ones((2, 9)), np.random.default_rng(0).random((2, 9)), rng=np.random.default_rng(0)
    )
    assert agreement.correlation == agreement.low == agreement.high == 0
    assert not agreement.is_above_chance


def test_cells_that_are_not_compared_do_not_count():
    cells = np.array([True, True, True, False])
    maps, losses = np.array([[1.0, 2.0, 3.0, 9.0]]), np.array([[1.0, 2.0, 3.0, -9.0]])
    assert rank_agreement(
        maps, losses, rng=np.random.default_rng(0), cells=cells
    ).correlation == pytest.approx(1)


class SumOfSeenCells(Subject):
    """A subject without a model: its number is the weight of the cells that are seen."""

    def __init__(self, weights):
        object.__setattr__(self, "weights", weights)

    @property
    def number(self):
        return float(self.weights.sum())

    def numbers_with_hidden(self, *, seen_cells, **others):
        return (self.weights * seen_cells).sum(axis=(1, 2))


def test_deletion_takes_the_first_cells_of_each_clip():
    weights = np.arange(40.0).reshape(2, 20)
    cells = np.ones(20, bool)
    cells[19] = False  # the heaviest, but in the padding
    maps = np.stack([weights, -weights])
    losses, random = deletion_losses(
        SumOfSeenCells(weights), maps, rng=np.random.default_rng(0), cells=cells, share=0.1
    )
    assert losses.tolist() == [17 + 18 + 37 + 38, 0 + 1 + 20 + 21]
    assert random == pytest.approx(2 * 9 + 2 * 29, rel=0.25)


def test_pointing_counts_maps_that_fall_on_their_object():
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    targets = centre_in_box((4, 4), boxes)
    assert targets.sum(axis=(1, 2)).tolist() == [4, 4]
    assert targets[0, 0, 0]
    assert targets[1, 3, 3]
    maps = np.zeros((2, 4, 4))
    maps[0, 1, 1] = maps[1, 0, 0] = 1  # the first hits, the second misses
    in_picture = np.ones((2, 4, 4), bool)
    in_picture[:, 3] = False
    found = pointing_accuracy(maps, targets, in_picture)
    assert found.accuracy == 0.5
    assert found.chance == pytest.approx((4 / 12 + 2 / 12) / 2)
    assert found.num_maps == 2


def test_boxes_are_left_top_right_bottom():
    wide = centre_in_box((2, 4), np.array([[0.0, 0.0, 1.0, 0.5]]))[0]
    assert wide.tolist() == [[True] * 4, [False] * 4]


def test_a_flat_map_hits_as_chance_does():
    targets = centre_in_box((4, 4), np.array([[0.0, 0.0, 0.5, 0.5]]))
    found = pointing_accuracy(np.ones((1, 4, 4)), targets, np.ones((1, 4, 4), bool))
    assert found.accuracy == found.chance == 0.25
