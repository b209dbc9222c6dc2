"""Maps by hand."""

from __future__ import annotations

import numpy as np
import pytest

from clipbert_jax.probing import attention_maps

# One text token and two cells, side by side.
LOOKS = np.array([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3], [0.7, 0.1, 0.2]])


def test_words_look_along_rows_and_cells_back_along_columns():
    np.testing.assert_array_equal(attention_maps.text_to_grid(LOOKS, (1, 2)), [[[0.3, 0.5]]])
    np.testing.assert_array_equal(attention_maps.grid_to_text(LOOKS, (1, 2)), [[[0.1, 0.7]]])


def test_cells_follow_each_other_row_by_row():
    attention = np.zeros((7, 7))
    attention[0, 1 + 3] = 1  # the fourth of six cells
    assert attention_maps.text_to_grid(attention, (2, 3))[0].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert attention_maps.text_to_grid(attention, (3, 2))[0].tolist() == [[0, 0], [0, 1], [0, 0]]


def test_rollout_multiplies_layers_from_the_first_on():
    layers = np.stack([LOOKS, np.eye(3)[[1, 2, 0]]])[:, None]
    first, second = (layer[0] / 2 + np.eye(3) / 2 for layer in layers)
    np.testing.assert_allclose(attention_maps.rollout(layers), second @ first)
    np.testing.assert_allclose(attention_maps.rollout(layers).sum(-1), 1)


def test_rollout_takes_the_mean_of_heads():
    heads = np.stack([np.eye(3), LOOKS])[None]
    np.testing.assert_allclose(attention_maps.rollout(heads), (np.eye(3) + (np.eye(3) + LOOKS) / 2) / 2)


def test_gradient_weighted_keeps_what_raises_the_number():
    by_head = np.array([[[[1.0, -3.0], [0.0, 4.0]], [[2.0, 1.0], [0.0, -4.0]]]])
    assert attention_maps.gradient_weighted(by_head).tolist() == [[[1.5, 0.5], [0.0, 2.0]]]


def test_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not have 2 x 2 cells after its text"):
        attention_maps.text_to_grid(LOOKS, (2, 2))
