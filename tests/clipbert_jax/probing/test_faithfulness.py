"""Maps that are evidence, and maps that are not; and a game whose outcome is known."""

from __future__ import annotations

import numpy as np
import pytest

from clipbert_jax.probing.ablation import ProbedExample
from clipbert_jax.probing.faithfulness import deletion_losses, rank_faithfulness
from clipbert_jax.probing.pointing_game import centre_in_box, pointing_chances, pointing_hits


def agree(maps, losses, **options):
    return rank_faithfulness(maps, losses, picture=maps.shape[1:], **options)


def test_the_map_of_the_losses_agrees_and_its_opposite_does_not():
    losses = np.random.default_rng(0).normal(size=(3, 4, 5))
    same = agree(np.exp(losses), losses)
    assert same.correlation == pytest.approx(1)
    assert same.chance == 1 / same.num_moves == 1 / 80
    assert same.is_above_chance
    opposite = agree(-losses, losses)
    assert opposite.correlation == pytest.approx(-1)
    assert not opposite.is_above_chance


def test_correlations_are_spearman_s_within_clips():
    maps = np.array([[1.0, 2.0, 3.0, 4.0], [100.0, 100.0, 300.0, 400.0]])[:, None]
    losses = np.array([[1.0, 3.0, 2.0, 4.0], [4.0, 1.0, 2.0, 3.0]])[:, None]
    ranks = np.array([-1.0, -1.0, 0.5, 1.5]), np.array([1.5, -1.5, -0.5, 0.5])
    tied = ranks[0] @ ranks[1] / np.linalg.norm(ranks[0]) / np.linalg.norm(ranks[1])
    assert agree(maps, losses).correlation == pytest.approx((0.8 + tied) / 2)


def smooth(maps):
    """Let each cell resemble its neighbours, round the border too."""
    return sum(np.roll(maps, (y, x), axis=(1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1))


@pytest.mark.parametrize("is_still", [False, True])
@pytest.mark.parametrize("make", [lambda x: x, smooth])
def test_unrelated_maps_are_above_chance_one_time_in_twenty(is_still, make):
    """Also where clips are all the same picture, and cells resemble their neighbours."""
    random = np.random.default_rng(1)
    num_clips = 1 if is_still else 4
    above = 0
    for _ in range(300):
        maps, losses = (
            np.repeat(make(random.normal(size=(num_clips, 6, 7))), 4 // num_clips, 0) for _ in "ab"
        )
        above += agree(maps, losses).is_above_chance
    assert 3 <= above <= 28  # 15 are expected; 28 or more would happen one time in a thousand


def test_clips_without_differences_do_not_count():
    losses = np.random.default_rng(0).normal(size=(3, 4, 4))
    maps = losses.copy()
    losses[1:] = 0  # as with the max over clips: only one decides
    assert agree(maps, losses).correlation == pytest.approx(1)
    nothing = agree(np.ones((2, 3, 3)), losses[:2, :3, :3])
    assert nothing.correlation == nothing.low == nothing.high == 0
    assert not nothing.is_above_chance


def test_few_cells_cannot_tell():
    losses = np.array([[[1.0, 2.0, 4.0], [3.0, 7.0, 5.0]]])
    assert agree(losses, losses).correlation == pytest.approx(1)
    assert not agree(losses, losses).can_tell
    assert not agree(losses, losses).is_above_chance


def test_cells_outside_of_the_picture_do_not_count():
    losses = np.random.default_rng(0).normal(size=(2, 5, 5))
    maps = losses.copy()
    maps[:, 4], losses[:, 4] = 100, -100
    maps[:, :, 4], losses[:, :, 4] = -50, 50
    assert rank_faithfulness(maps, losses, picture=(4, 4)).correlation == pytest.approx(1)
    assert rank_faithfulness(maps, losses, picture=(5, 5)).correlation < 0.9


def test_cells_that_were_hidden_together_are_one():
    losses = np.random.default_rng(0).normal(size=(1, 3, 3))
    wide = losses.repeat(2, axis=1).repeat(2, axis=2)[:, :5, :5]
    maps = wide + np.tile([[0.1, -0.1], [-0.1, 0.1]], (3, 3))[:5, :5] * [1, 1, 1, 1, 0]
    found = agree(maps, wide, region=2)
    assert found.num_moves == 36
    assert found.correlation == pytest.approx(1)


class SumOfSeenCells(ProbedExample):
    """An example without a model: its number is the weight of the cells that are seen."""

    def __init__(self, weights):
        object.__setattr__(self, "weights", weights)

    @property
    def number(self):
        return float(self.weights.sum())

    def numbers_with_hidden(self, *, seen_cells, **others):
        return (self.weights * seen_cells).sum(axis=(1, 2))


def test_deletion_takes_the_first_cells_of_each_clip():
    weights = np.arange(40.0).reshape(2, 4, 5)
    maps = np.stack([weights, -weights])
    of_maps, of_moved = deletion_losses(
        SumOfSeenCells(weights.reshape(2, 20)),
        maps,
        rng=np.random.default_rng(0),
        picture=(4, 4),
        share=1 / 8,
    )
    assert of_maps.tolist() == [18 + 17 + 38 + 37, 0 + 1 + 20 + 21]
    assert of_moved.mean() == pytest.approx(2 * weights[:, :, :4].mean(axis=(1, 2)).sum(), rel=0.25)
    assert of_moved.mean() < np.quantile(of_moved, 0.95) <= 110


def test_random_deletion_is_above_the_bound_one_time_in_twenty():
    random = np.random.default_rng(2)
    above = 0
    for _ in range(300):
        weights, maps = random.normal(size=(3, 25)), random.normal(size=(1, 3, 5, 5))
        of_maps, of_moved = deletion_losses(SumOfSeenCells(weights), maps, rng=random, picture=(5, 5))
        above += of_maps[0] > np.quantile(of_moved, 0.95)
    assert 3 <= above <= 30


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
    assert pointing_hits(maps, targets).tolist() == [1, 0]
    assert pointing_chances(targets, in_picture) == pytest.approx([4 / 12, 2 / 12])


def test_boxes_are_left_top_right_bottom():
    wide = centre_in_box((2, 4), np.array([[0.0, 0.0, 1.0, 0.5]]))[0]
    assert wide.tolist() == [[True] * 4, [False] * 4]


def test_a_flat_map_hits_as_chance_does():
    targets = centre_in_box((4, 4), np.array([[0.0, 0.0, 0.5, 0.5]]))
    hits = pointing_hits(np.ones((1, 4, 4)), targets)
    assert hits == pointing_chances(targets, np.ones((1, 4, 4), bool)) == [0.25]
