"""Keeps what retrieval needs while videos are scored: all match logits, and the clips of the best videos.

Beside `retrieval`. Predictions show the clips of a few videos for each caption; those of all pairs would take
gigabytes for some thousand videos and captions.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from clipbert_jax.evaluation.score import Reduced


class BestVideos:
    """Takes videos in batches; keeps, for each caption, its own video and those that match best."""

    def __init__(self, video_of_caption: Int[np.ndarray, " n"], num_best: int) -> None:
        self._video_of_caption = video_of_caption
        self._num_best = num_best
        self._num_videos = 0
        self._logits: list[Float[np.ndarray, "b n"]] = []
        self._best: Reduced = {}
        self._own: Reduced = {}

    def add(self, batch: Reduced) -> None:
        """Take the `logits` [b n] of the next videos, and the `clip_logits` [b n k] of each clip."""
        logits = batch["logits"]
        place = np.arange(self._num_videos, self._num_videos + len(logits))
        found = {**batch, "videos": np.broadcast_to(place[:, None], logits.shape)}
        self._keep_own(found)
        self._keep_best(found)
        self._logits.append(logits)
        self._num_videos += len(logits)

    def reduced(self) -> Reduced:
        """Return `logits` [videos n], and for each caption its best videos in order and its own [n r].

        Their `clip_logits` are [n r k].
        """
        shown = {
            name: np.moveaxis(np.concatenate([self._best[name], self._own[name][None]]), 0, 1)
            for name in ("videos", "clip_logits")
        }
        return {"logits": np.concatenate(self._logits), **shown}

    def _keep_best(self, found: Reduced) -> None:
        if self._best:
            found = {name: np.concatenate([self._best[name], found[name]]) for name in found}
        # A stable sort: of equal videos the first ranks higher.
        order = np.argsort(-found["logits"], axis=0, kind="stable")[: self._num_best]
        captions = np.arange(order.shape[1])
        self._best = {name: values[order, captions] for name, values in found.items()}

    def _keep_own(self, found: Reduced) -> None:
        if not self._own:
            self._own = {name: np.zeros_like(values[0]) for name, values in found.items()}
        captions = np.flatnonzero(np.isin(self._video_of_caption, found["videos"][:, 0]))
        rows = self._video_of_caption[captions] - self._num_videos
        for name, values in found.items():
            self._own[name][captions] = values[rows, captions]
