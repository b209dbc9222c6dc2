"""The length that a text is cut to: the least that holds it, whatever the other texts are."""

import numpy as np
import pytest

from clipbert_jax.evaluation.text_buckets import text_lengths, texts_by_bucket


def test_lengths_reach_to_the_last_token():
    mask = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    assert text_lengths(mask).tolist() == [2, 3, 4, 0]
    assert text_lengths(mask.reshape(2, 2, 4)).tolist() == [[2, 3], [4, 0]]


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (20, {16: [0, 2, 3], 20: [1, 4]}),
        (100, {16: [0, 2, 3], 32: [1, 4]}),
        (17, {16: [0, 2, 3], 17: [1, 4]}),
    ],
)
def test_only_buckets_that_have_texts_are_used(longest, expected):
    lengths = np.array([16, 17, 3, 0, 17])
    found = {length: texts.tolist() for length, texts in texts_by_bucket(lengths, longest)}
    assert found == expected


def test_without_buckets_texts_keep_their_length():
    ((length, texts),) = texts_by_bucket(np.array([3, 12]), 20, ())
    assert (length, texts.tolist()) == (20, [0, 1])
