"""Metrics on inputs small enough to compute by hand."""

import numpy as np
import pytest

from clipbert_jax.evaluation.metrics import (
    accuracy_metrics,
    answer_metrics,
    count_metrics,
    original_ranks_both_ways,
    rank_metrics,
    ranks_both_ways,
    retrieval_ranks,
)


def test_ranks_count_from_one():
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.3]])
    is_match = np.array([[True, False, False], [False, False, True]])
    assert retrieval_ranks(scores, is_match).tolist() == [1, 2]


def test_ties_count_against_the_model():
    is_match = np.eye(4, dtype=bool)
    assert retrieval_ranks(np.ones((4, 4)), is_match).tolist() == [4, 4, 4, 4]


def metrics_of(ranks, *arrays):
    """Return the metrics of both directions."""
    return {direction: rank_metrics(of_queries) for direction, of_queries in ranks(*arrays).items()}


def test_the_best_of_several_matches_counts():
    scores = np.array([[0.1, 0.9, 0.5]])
    assert retrieval_ranks(scores, np.array([[True, False, True]])).tolist() == [2]


def test_rank_metrics():
    metrics = rank_metrics(np.array([1, 2, 6, 11]))
    assert metrics == {"r1": 25.0, "r5": 50.0, "r10": 75.0, "median_rank": 4.0, "mean_rank": 5.0}


def test_several_texts_of_a_video_and_a_video_without_text():
    # Texts 0 and 1 describe video 0, text 2 describes video 1; video 2 is only a distractor.
    logits = np.array([[3.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    metrics = metrics_of(ranks_both_ways, logits, np.array([0, 0, 1]))
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


def test_ranks_are_in_the_order_of_texts_and_of_described_videos():
    logits = np.array([[9.0, 8.0, 7.0], [9.0, 9.0, 9.0], [9.5, 8.5, 6.0]])
    ranks = ranks_both_ways(logits, np.array([2, 2, 0]))  # nothing describes video 1
    assert ranks["text_to_video"].tolist() == [1, 2, 2]
    assert ranks["video_to_text"].tolist() == [3, 1]  # videos 0 and 2


def test_released_ranks_see_four_decimals_and_put_the_first_of_ties_first():
    # Video 0 is ahead by less than a rounded decimal, so the first video ranks first both times.
    probabilities = np.array([[0.70002, 0.70004], [0.70001, 0.70003]])
    video_of_text = np.array([0, 1])
    assert ranks_both_ways(probabilities, video_of_text)["text_to_video"].tolist() == [1, 2]
    assert original_ranks_both_ways(probabilities, video_of_text)["text_to_video"].tolist() == [1, 2]
    assert original_ranks_both_ways(probabilities[::-1], 1 - video_of_text)["text_to_video"].tolist() == [
        2,
        1,
    ]


def test_released_video_to_text_counts_the_last_text_only():
    probabilities = np.array([[0.9, 0.1, 0.2], [0.3, 0.4, 0.5]])
    video_of_text = np.array([0, 0, 1])
    assert ranks_both_ways(probabilities, video_of_text)["video_to_text"].tolist() == [1, 1]
    assert original_ranks_both_ways(probabilities, video_of_text)["video_to_text"].tolist() == [3, 1]
    metrics = metrics_of(original_ranks_both_ways, probabilities, video_of_text)
    assert metrics["video_to_text"] == rank_metrics(np.array([3, 1]))


def test_both_ways_agree_without_ties_and_with_one_text_per_video():
    random = np.random.default_rng(0)
    probabilities = random.permutation(400).reshape(20, 20) / 400
    video_of_text = random.permutation(20)
    assert metrics_of(original_ranks_both_ways, probabilities, video_of_text) == metrics_of(
        ranks_both_ways, probabilities, video_of_text
    )


@pytest.mark.parametrize("ranks", [ranks_both_ways, original_ranks_both_ways])
def test_what_cannot_be_ranked_is_refused_both_ways(ranks):
    with pytest.raises(ValueError, match=r"Queries \[1\] match no candidate"):
        ranks(np.ones((2, 2)), np.array([0, -1]))
    with pytest.raises(ValueError, match="not finite"):
        ranks(np.array([[np.inf, 0.0], [0.0, 1.0]]), np.array([0, 1]))


def test_accuracy_of_right_and_wrong():
    assert accuracy_metrics(np.array([True, False, True, True])) == {"accuracy": 75.0}


def test_accuracy_by_type_leaves_out_questions_without_one():
    metrics = accuracy_metrics(np.array([1.0, 0.5, 0.0, 0.5]), ["what", "how", "", "what"])
    assert metrics == {"accuracy": 50.0, "accuracy/how": 50.0, "accuracy/what": 75.0}
    assert list(metrics) == ["accuracy", "accuracy/how", "accuracy/what"]
    assert accuracy_metrics(np.array([True]), np.array(["how"])) == {"accuracy": 100.0, "accuracy/how": 100.0}


def test_answers_outside_of_the_vocabulary_are_wrong():
    # The third question has no answer in the vocabulary; predicting none does not make it right.
    predicted, right = np.array([0, 1, -1, 3]), np.array([0, 2, -1, 3])
    metrics = answer_metrics(predicted, right, ["a", "a", "b", "b"])
    assert metrics == {
        "accuracy": 50.0,
        "accuracy_in_vocabulary": pytest.approx(200 / 3),
        "share_out_of_vocabulary": 25.0,
        "accuracy/a": 50.0,
        "accuracy/b": 50.0,
    }
    assert next(iter(metrics)) == "accuracy"


def test_without_any_answer_in_the_vocabulary_its_accuracy_is_absent():
    assert answer_metrics(np.array([0]), np.array([-1])) == {
        "accuracy": 0.0,
        "share_out_of_vocabulary": 100.0,
    }


def test_counts_are_rounded_and_moved_into_the_range():
    predicted = np.array([-3.0, 2.4, 2.5, 3.5, 99.0], np.float32)  # become 1, 2, 2, 4, 10
    metrics = count_metrics(predicted, np.array([1, 2, 3, 4, 8]), min_count=1, max_count=10)
    assert metrics["mse"] == pytest.approx((0 + 0 + 1 + 0 + 4) / 5)
    assert metrics["mse_unrounded"] == pytest.approx((16 + 0.16 + 0.25 + 0.25 + 91**2) / 5)
    assert metrics["accuracy"] == 60.0


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: rank_metrics(np.array([], int)), "no ranks"),
        (lambda: accuracy_metrics(np.array([], bool)), "no questions"),
        (lambda: answer_metrics(np.array([], int), np.array([], int)), "no questions"),
        (lambda: count_metrics(np.array([]), np.array([], int), min_count=1, max_count=9), "no questions"),
        (lambda: accuracy_metrics(np.array([np.nan])), "from 0 to 1"),
        (lambda: accuracy_metrics(np.array([50.0])), "from 0 to 1"),
        (lambda: accuracy_metrics(np.array([True]), ["a", "b"]), "2 types are given for 1 questions"),
        (lambda: count_metrics(np.array([np.nan]), np.array([1]), min_count=1, max_count=9), "not finite"),
    ],
)
def test_what_has_no_metrics_is_refused(compute, message):
    with pytest.raises(ValueError, match=message):
        compute()
