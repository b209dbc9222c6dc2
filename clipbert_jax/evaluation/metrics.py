"""Metrics of every task: plain arrays in, plain numbers out. Evaluators call them on pooled scores.

Metrics are flat dicts of numbers, one for each direction of retrieval; shares are in percent. `bootstrap`
puts intervals around them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


def retrieval_ranks(
    scores: Float[np.ndarray, "queries candidates"], is_match: Bool[np.ndarray, "queries candidates"]
) -> Int[np.ndarray, " queries"]:
    """Return the rank, from 1, of each query's best matching candidate.

    Ties count against the model: a candidate that scores the same as the match ranks before it, so that
    constant scores get the worst rank and not the best.

    Raises:
      ValueError: a query has no matching candidate, or a score is not finite.
    """
    _check_can_be_ranked(scores, is_match)
    best_match = np.where(is_match, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((scores >= best_match) & ~is_match).sum(axis=1)


def ranks_both_ways(
    logits: Float[np.ndarray, "videos texts"], video_of_text: Int[np.ndarray, " texts"]
) -> dict[str, Int[np.ndarray, " _"]]:
    """Return the ranks of each text's video (`text_to_video`) and each video's text (`video_to_text`).

    Queries are in the order of the texts, and of the videos that have a text: those of
    `np.unique(video_of_text)`.

    Args:
      logits: match logits of every video with every text.
      video_of_text: index of the video that each text describes. A video with several texts counts, in
        video-to-text, by its best-ranked one; a video with none is a candidate only.

    Raises:
      ValueError: a text's video is not among the videos, or a score is not finite.
    """
    is_match = _match_matrix(video_of_text, num_videos=logits.shape[0])
    is_described = is_match.any(axis=0)
    return {
        "text_to_video": retrieval_ranks(logits.T, is_match),
        "video_to_text": retrieval_ranks(logits[is_described], is_match.T[is_described]),
    }


def original_ranks_both_ways(
    probabilities: Float[np.ndarray, "videos texts"], video_of_text: Int[np.ndarray, " texts"]
) -> dict[str, Int[np.ndarray, " _"]]:
    """Return ranks as `ranks_both_ways` does, computed in the original's way.

    Probabilities are rounded to 4 decimals, which makes ties; among these the first candidate ranks first,
    where the original's sort leaves the order undefined. In video-to-text only the last text of a video
    counts. Follows `src/tasks/run_video_retrieval.py` of the original.

    Args:
      probabilities: match probability of every video with every text; not logits, because of the rounding.
      video_of_text: index of the video that each text describes.

    Raises:
      ValueError: a text's video is not among the videos, or a probability is not finite.
    """
    # In float64, where ten thousand times a float32 is exact.
    scores = np.round(probabilities.astype(np.float64), 4)
    is_match = _match_matrix(video_of_text, num_videos=scores.shape[0])
    _check_can_be_ranked(scores.T, is_match)
    is_described = is_match.any(axis=0)
    last_text = len(video_of_text) - 1 - is_match[::-1].argmax(axis=0)
    return {
        "text_to_video": _stable_ranks(scores.T, video_of_text),
        "video_to_text": _stable_ranks(scores[is_described], last_text[is_described]),
    }


def rank_metrics(ranks: Int[np.ndarray, " queries"]) -> dict[str, float]:
    """Return recall at 1, 5 and 10 in percent, and median and mean rank.

    Raises:
      ValueError: there are no ranks.
    """
    _check_not_empty(ranks, "ranks")
    recalls = {f"r{k}": 100 * int((ranks <= k).sum()) / len(ranks) for k in (1, 5, 10)}
    return {**recalls, "median_rank": float(np.median(ranks)), "mean_rank": float(ranks.mean())}


def accuracy_metrics(
    is_right: Bool[np.ndarray, " m"] | Float[np.ndarray, " m"],
    types: Sequence[str] | Shaped[np.ndarray, " m"] | None = None,
) -> dict[str, float]:
    """Return `accuracy`, and `accuracy/TYPE` for every type of question, in percent.

    Args:
      is_right: one value per question or masked token: right or wrong, or a soft score from 0 to 1 as in VQA.
      types: type of each question, "" for a question without one. Types are sorted.

    Raises:
      ValueError: no questions, not one type per question, or a score that is not from 0 to 1.
    """
    _check_not_empty(is_right, "questions")
    scores = is_right.astype(np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("Scores of answers must be from 0 to 1; some are not, or are not finite.")
    by_type = {} if types is None else _mean_by_type(scores, types)
    return {
        "accuracy": 100 * float(scores.mean()),
        **{f"accuracy/{name}": 100 * mean for name, mean in by_type.items()},
    }


def answer_metrics(
    predicted: Int[np.ndarray, " m"],
    right: Int[np.ndarray, " m"],
    types: Sequence[str] | Shaped[np.ndarray, " m"] | None = None,
) -> dict[str, float]:
    """Return metrics, in percent, of answers that are chosen from a vocabulary.

    `accuracy` and `accuracy/TYPE` count a question whose right answer is outside of the vocabulary as
    answered wrongly: it is the number to report. `accuracy_in_vocabulary` leaves such questions out, and is
    absent if no question remains; `share_out_of_vocabulary` is their share.

    Args:
      predicted: index of the predicted answer.
      right: index of the right answer; negative where it is outside of the vocabulary.
      types: type of each question, as in `accuracy_metrics`.

    Raises:
      ValueError: no questions, or not one type per question.
    """
    _check_not_empty(right, "questions")
    is_inside = right >= 0
    is_right = (predicted == right) & is_inside
    accuracies = accuracy_metrics(is_right, types)
    inside = {"accuracy_in_vocabulary": 100 * float(is_right[is_inside].mean())} if is_inside.any() else {}
    return {
        "accuracy": accuracies.pop("accuracy"),
        **inside,
        "share_out_of_vocabulary": 100 * float((~is_inside).mean()),
        **accuracies,
    }


def count_metrics(
    predicted: Float[np.ndarray, " m"], right: Int[np.ndarray, " m"], *, min_count: int, max_count: int
) -> dict[str, float]:
    """Return `mse` and `accuracy` (percent) of whole counts, and `mse_unrounded` of the raw predictions.

    A prediction becomes a count as in TGIF-QA's evaluation (`count_base.py`): rounded, a half to the even
    neighbour, then moved into the range.

    Args:
      predicted: counts as the model gives them.
      right: true counts.
      min_count: smallest answer; 1 for TGIF-QA.
      max_count: largest answer; 10 for TGIF-QA.

    Raises:
      ValueError: no questions, or a prediction that is not finite.
    """
    _check_not_empty(right, "questions")
    _check_finite(predicted)
    counts = np.clip(np.rint(predicted), min_count, max_count)
    return {
        "mse": float(np.square(counts - right).mean()),
        "mse_unrounded": float(np.square(predicted.astype(np.float64) - right).mean()),
        "accuracy": 100 * float((counts == right).mean()),
    }


def _match_matrix(video_of_text: np.ndarray, *, num_videos: int) -> Bool[np.ndarray, "texts videos"]:
    return video_of_text[:, None] == np.arange(num_videos)[None, :]


def _stable_ranks(
    scores: Float[np.ndarray, "queries candidates"], match: Int[np.ndarray, " queries"]
) -> Int[np.ndarray, " queries"]:
    """Return the rank, from 1, of one candidate per query in a stable descending order."""
    own = np.take_along_axis(scores, match[:, None], axis=1)
    is_before = np.arange(scores.shape[1]) < match[:, None]
    return 1 + ((scores > own) | ((scores == own) & is_before)).sum(axis=1)


def _mean_by_type(
    scores: Float[np.ndarray, " m"], types: Sequence[str] | Shaped[np.ndarray, " m"]
) -> dict[str, float]:
    if len(types) != len(scores):
        raise ValueError(f"{len(types)} types are given for {len(scores)} questions.")
    names, type_of_question = np.unique(np.asarray(types), return_inverse=True)
    means = np.bincount(type_of_question, weights=scores) / np.bincount(type_of_question)
    return {name: mean for name, mean in zip(names.tolist(), means.tolist(), strict=True) if name}


def _check_can_be_ranked(scores: np.ndarray, is_match: np.ndarray) -> None:
    if not is_match.any(axis=1).all():
        raise ValueError(f"Queries {np.flatnonzero(~is_match.any(axis=1)).tolist()} match no candidate.")
    _check_finite(scores)


def _check_finite(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise ValueError("Scores are not finite: the model's parameters or its inputs hold NaN.")


def _check_not_empty(values: np.ndarray, what: str) -> None:
    if not len(values):
        raise ValueError(f"There are no {what} to compute metrics of.")
