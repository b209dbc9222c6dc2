from __future__ import annotations

import numpy as np
import pytest

from clipbert_jax.probing.pointing_game import constant_cell_hits, other_video_hits

EVERYWHERE = np.ones((5, 2, 2), bool)
UPPER_ROW = np.array([[True, True], [False, False]])


def at(*places: tuple[int, int]) -> np.ndarray:
    """Return one 2 x 2 array for each place, True there."""
    cells = np.zeros((len(places), 2, 2), bool)
    for of_case, place in zip(cells, places, strict=True):
        of_case[place] = True
    return cells


def test_the_constant_cell_is_chosen_on_other_videos():
    """Three videos of 2, 2 and 1 cases: without its own ones the best cell is another for the first."""
    targets = at((0, 1), (0, 1), (1, 0), (1, 0), (0, 1))
    videos = np.array(["a", "a", "b", "b", "c"])
    # For a: (1, 0) twice, (0, 1) once. For b: (0, 1) three times. For c: two each, the first counts.
    assert constant_cell_hits(targets, EVERYWHERE, videos).tolist() == [False, False, False, False, True]
    assert constant_cell_hits(targets[:4], EVERYWHERE[:4], videos[:4]).tolist() == [False] * 4
    everyone_alike = at(*[(1, 1)] * 5)
    assert constant_cell_hits(everyone_alike, EVERYWHERE, videos).all()


def test_every_shape_of_picture_has_a_cell_of_its_own():
    targets = at((1, 1), (1, 1), (0, 1), (0, 1), (0, 1))
    videos = np.arange(5)
    assert constant_cell_hits(targets, EVERYWHERE, videos).tolist() == [False, False, True, True, True]
    in_picture = np.concatenate([EVERYWHERE[:2], np.repeat(UPPER_ROW[None], 3, axis=0)])
    assert constant_cell_hits(targets, in_picture, videos).all()


def test_maps_of_other_videos_are_averaged():
    """One case of a; b points there once of two times, c never; of d, of another shape, nothing is heard."""
    maps = at((0, 0), (0, 0), (1, 1), (0, 1), (0, 0)).astype(float)
    targets = at((0, 0), (0, 1), (0, 1), (1, 1), (0, 0))
    in_picture = np.concatenate([EVERYWHERE[:4], UPPER_ROW[None]])
    videos = np.array(["a", "b", "b", "c", "d"])
    hits = other_video_hits(maps, targets, in_picture, videos)
    # For d, alone with its shape, a random cell of its picture points.
    assert hits.tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 2, 1 / 3, 1 / 2])


def test_several_largest_cells_of_another_map_share_the_pointer():
    maps, targets = np.ones((2, 2, 2)), at((0, 0), (1, 1))
    assert other_video_hits(maps, targets, EVERYWHERE[:2], np.arange(2)).tolist() == [0.25, 0.25]


def test_a_map_that_does_not_depend_on_the_video_hits_as_often_in_another():
    rng = np.random.default_rng(0)
    targets = rng.random((30, 3, 3)) < 0.3
    maps = np.broadcast_to(rng.random((3, 3)), targets.shape)
    in_picture, videos = np.ones_like(targets), np.arange(30) // 3
    pointed = targets[:, *np.unravel_index(maps[0].argmax(), (3, 3))]
    assert other_video_hits(maps, targets, in_picture, videos) == pytest.approx(pointed.astype(float))


def test_without_another_video_the_first_cell_of_the_picture_is_taken():
    targets = at((0, 0), (0, 1))
    assert constant_cell_hits(targets, EVERYWHERE[:2], np.zeros(2)).tolist() == [True, False]
