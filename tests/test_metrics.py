"""Retrieval metrics on matrices small enough to rank by hand."""

import numpy as np
import pytest

from clipbert_jax.metrics import rank_metrics, retrieval_metrics, retrieval_ranks


def test_ranks_count_from_one():
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.3]])
    is_match = np.array([[True, False, False], [False, False, True]])
    assert retrieval_ranks(scores, is_match).tolist() == [1, 2]


def test_ties_count_against_the_model():
    is_match = np.eye(4, dtype=bool)
    assert retrieval_ranks(np.ones((4, 4)), is_match).tolist() == [4, 4, 4, 4]


def test_the_best_of_several_matches_counts():
    scores = np.array([[0.1, 0.9, 0.5]])
    assert retrieval_ranks(scores, np.array([[True, False, True]])).tolist() == [2]


def test_rank_metrics():
    metrics = rank_metrics(np.array([1, 2, 6, 11]))
    assert metrics == {"r1": 25.0, "r5": 50.0, "r10": 75.0, "median_rank": 4.0, "mean_rank": 5.0}


def test_several_texts_of_a_video_and_a_video_without_text():
    # Texts 0 and 1 describe video 0, text 2 describes video 1; video 2 is only a distractor.
    logits = np.array([[3.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    metrics = retrieval_metrics(logits, np.array([0, 0, 1]))
    assert metrics["text_to_video"]["r1"] == pytest.approx(100 / 3)
    assert metrics["text_to_video"]["mean_rank"] == pytest.approx((1 + 3 + 2) / 3)
    assert metrics["video_to_text"]["r1"] == 100.0


@pytest.mark.parametrize(
    ("scores", "is_match", "message"),
    [
        (np.ones((1, 2)), np.zeros((1, 2), bool), "match no candidate"),
        (np.array([[np.nan, 1.0]]), np.array([[True, False]]), "not finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, is_match, message):
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(scores, is_match)
