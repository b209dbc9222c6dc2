"""Metrics against those of the original (golden case 08b).

Parts of the case that our design leaves no room for:

- `duplicates`: the original collects (text, video, score) triples, in which a pair may repeat. Ours is a
  full matrix, in which each pair stands once; the case is ranked here as the matrix of its first scores.
- `chunk_list` with padding and `repeat_tensor_rows`: the original repeats random examples to fill a group,
  and copies a video's features for each of its texts. Here `text_valid` marks what fills a group, and the
  text axis of a batch belongs to a video.
- Types of question without a question have accuracy 0 there, and are absent here.
- `vqa_targets` are labels of a batch, and no metric.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipbert_jax.evaluation.metrics import (
    accuracy_metrics,
    answer_metrics,
    original_ranks_both_ways,
    rank_metrics,
    ranks_both_ways,
)

CASES = json.loads((Path(__file__).parents[2] / "goldens" / "08b_metrics.json").read_text())["cases"]
NAMES = {"r1": "r1", "r5": "r5", "r10": "r10", "median_rank": "medianR", "mean_rank": "meanR"}
DIRECTIONS = {"text_to_video": "text2video", "video_to_text": "video2text"}


def metrics_of(ranks, *arrays):
    """Return the metrics of both directions."""
    return {direction: rank_metrics(of_queries) for direction, of_queries in ranks(*arrays).items()}


def ours(of_directions: dict) -> dict:
    """Give the reference metrics our names."""
    return {
        direction: {name: of_directions[theirs][key] for name, key in NAMES.items()}
        for direction, theirs in DIRECTIONS.items()
    }


def matrix(case: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [videos texts] and the video of each text; the reference has texts in rows."""
    return np.array(case["scores"]).T, np.array(case["gt"])


def test_released_retrieval_metrics():
    case = CASES["several_captions_per_video"]
    assert metrics_of(original_ranks_both_ways, *matrix(case)) == ours(case["metrics"])
    assert (
        metrics_of(ranks_both_ways, *matrix(case))["text_to_video"] == ours(case["metrics"])["text_to_video"]
    )


def test_retrieval_metrics_of_a_square_matrix():
    """Despite its name the case has two ties: text 14 scores videos 7 and 14, video 0 texts 0 and 14 alike.

    The original's sort happened to put the match first both times, and a stable one the lower index.
    """
    scores, video_of_text = matrix(CASES["square_no_ties"])
    reference = ours(CASES["square_no_ties"]["metrics"])
    released = metrics_of(original_ranks_both_ways, scores, video_of_text)
    assert released["video_to_text"] == reference["video_to_text"]
    assert released["text_to_video"].pop("mean_rank") - 1 / 30 == pytest.approx(
        reference["text_to_video"]["mean_rank"]
    )
    assert released["text_to_video"].items() <= reference["text_to_video"].items()

    scores[[0, 14], [0, 14]] += 1e-4  # break both ties as the original did
    assert metrics_of(original_ranks_both_ways, scores, video_of_text) == reference
    assert metrics_of(ranks_both_ways, scores, video_of_text) == reference


def test_ties_stay_within_the_bounds():
    case = CASES["ties"]
    lucky, unlucky = (ours(case["bounds"][name]) for name in ("optimistic", "pessimistic"))
    released = metrics_of(original_ranks_both_ways, *matrix(case))
    for direction, metrics in released.items():
        for name, value in metrics.items():
            bounds = sorted([lucky[direction][name], unlucky[direction][name]])
            assert bounds[0] <= value <= bounds[1], (direction, name)
    assert metrics_of(ranks_both_ways, *matrix(case)) == unlucky


def test_metrics_of_ranks():
    case = CASES["from_ranks"]
    metrics = rank_metrics(np.array(case["zero_based_ranks"]) + 1)
    assert metrics == {name: case["metrics"][key] for name, key in NAMES.items()}


def test_the_first_score_of_a_repeated_pair():
    case = CASES["duplicates"]
    videos = ["a", "b"]
    scores = np.zeros((2, 2))
    for pair in reversed(case["pairs"]):
        scores[videos.index(pair["vid_id"]), pair["txt_id"]] = pair["score"]
    video_of_text = np.array([videos.index(case["gt"][str(text)]) for text in range(2)])
    assert metrics_of(original_ranks_both_ways, scores, video_of_text) == ours(case["metrics"])


def check_result(metrics: dict, types: list[str], result: dict) -> None:
    """Compare accuracies with the reference's ratios; its types without questions are absent here."""
    assert metrics["accuracy"] == pytest.approx(100 * result["overall_acc"], abs=1e-9)
    for name, (share, count) in result["ratios"].items():
        type_ = name.removesuffix("_ratio")
        assert types.count(type_) == count
        assert share == count / len(types)
        if count:
            expected = 100 * result[f"{type_}_acc"]
            assert metrics[f"accuracy/{type_}"] == pytest.approx(expected, abs=1e-9)
        else:
            assert f"accuracy/{type_}" not in metrics


@pytest.mark.parametrize("name", ["frameqa", "msrvtt_qa"])
def test_open_ended_answers(name):
    case = CASES[name]
    index = {answer: number for number, answer in enumerate(case["label2ans"])}
    right = np.array([index.get(answer, -1) for answer in case["gt"]])
    metrics = answer_metrics(np.array(case["pred_index"]), right, case["answer_type"])
    check_result(metrics, case["answer_type"], case["result"])
    assert metrics["share_out_of_vocabulary"] == {"frameqa": 2.5, "msrvtt_qa": 0.0}[name]


def test_multiple_choice():
    case = CASES["action"]
    metrics = accuracy_metrics(np.array(case["pred_index"]) == np.array(case["gt"]))
    assert metrics == {"accuracy": pytest.approx(100 * case["result"]["overall_acc"])}


def test_multiple_choice_of_captions():
    case = CASES["msrvtt_mc"]
    is_right = np.array([case["predictions"][name] == answer for name, answer in case["answers"].items()])
    assert f"{accuracy_metrics(is_right)['accuracy']:.2f}" == case["result"]["mc_accuracy"]


def test_soft_scores_of_vqa():
    case = CASES["vqa"]
    questions = [case["data"][str(prediction["question_id"])] for prediction in case["predictions"]]
    scores = [
        question["labels"].get(prediction["answer"], 0.0)
        for question, prediction in zip(questions, case["predictions"], strict=True)
    ]
    types = [question["answer_type"] for question in questions]
    check_result(accuracy_metrics(np.array(scores), types), types, case["result"])
