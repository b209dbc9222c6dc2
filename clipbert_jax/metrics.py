"""Retrieval metrics from a score matrix: plain arrays in, plain numbers out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


def retrieval_ranks(
    scores: Float[np.ndarray, "queries candidates"], is_match: Bool[np.ndarray, "queries candidates"]
) -> Int[np.ndarray, " queries"]:
    """Return the rank, from 1, of each query's best matching candidate.

    Ties count against the model: a candidate that scores the same as the match ranks before it, so that
    constant scores get the worst rank and not the best.

    Raises:
      ValueError: a query has no matching candidate, or a score is not finite.
    """
    if not is_match.any(axis=1).all():
        raise ValueError(f"Queries {np.flatnonzero(~is_match.any(axis=1)).tolist()} match no candidate.")
    if not np.isfinite(scores).all():
        raise ValueError("Scores are not finite: the model's parameters or its inputs hold NaN.")
    best_match = np.where(is_match, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((scores >= best_match) & ~is_match).sum(axis=1)


def rank_metrics(ranks: Int[np.ndarray, " queries"]) -> dict[str, float]:
    """Return recall at 1, 5 and 10 in percent, and median and mean rank."""
    recalls = {f"r{k}": 100 * int((ranks <= k).sum()) / len(ranks) for k in (1, 5, 10)}
    return {**recalls, "median_rank": float(np.median(ranks)), "mean_rank": float(ranks.mean())}


def retrieval_metrics(
    logits: Float[np.ndarray, "videos texts"], video_of_text: Int[np.ndarray, " texts"]
) -> dict[str, dict[str, float]]:
    """Return text-to-video and video-to-text metrics of a full score matrix.

    Args:
      logits: match logits of every video with every text.
      video_of_text: index of the video that each text describes. A video with several texts counts, in
        video-to-text, by its best-ranked one; a video with none is a candidate only.
    """
    is_match = video_of_text[:, None] == np.arange(logits.shape[0])[None, :]
    is_described = is_match.any(axis=0)
    return {
        "text_to_video": rank_metrics(retrieval_ranks(logits.T, is_match)),
        "video_to_text": rank_metrics(retrieval_ranks(logits[is_described], is_match.T[is_described])),
    }
