"""Evaluation: every text against every video, each video encoded once.

After training and before the metrics. Shapes are fixed (short last groups are filled and cut off
again), so one program is compiled and the result does not depend on how videos or texts are grouped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.models.skeleton import Parameters, Skeleton


@runtime_checkable
class MatchTask(Protocol):
    """A task whose scores say how well a text matches a video."""

    def match_logit(self, scores: jax.Array) -> jax.Array:
        """Pool scores [b k n a] over the clips and return match logits [b n]."""
        ...


class Scorer:
    """Scores videos against texts with the parameters of one model."""

    def __init__(self, skeleton: Skeleton, parameters: Parameters) -> None:
        self._parameters = parameters

        @jax.jit
        def encode(parameters: Parameters, frames: jax.Array) -> jax.Array:
            return skeleton.merge(parameters).encode_video(frames)

        @jax.jit
        def score(
            parameters: Parameters, visual_tokens: jax.Array, ids: jax.Array, mask: jax.Array
        ) -> jax.Array:
            num_videos = visual_tokens.shape[0]
            ids, mask = (jnp.broadcast_to(x, (num_videos, *x.shape)) for x in (ids, mask))
            return skeleton.merge(parameters).score_texts(visual_tokens, ids, mask).scores

        self.encode = partial(encode, parameters)
        """frames [b k t h w 3] -> visual tokens [b k v d]."""
        self.score = partial(score, parameters)
        """visual tokens [b k v d], text ids [n l], text mask [n l] -> scores per clip [b k n a]."""

    def score_texts(
        self,
        frames: UInt8[np.ndarray, "b k t h w 3"],
        text_ids: Int[np.ndarray, "n l"],
        text_mask: Bool[np.ndarray, "n l"],
        *,
        texts_per_call: int,
    ) -> Float[np.ndarray, "b k n a"]:
        """Score all texts against each video; the videos are encoded once."""
        visual_tokens = self.encode(frames)
        groups = [
            self.score(visual_tokens, ids, mask)
            for ids, mask in _text_groups(text_ids, text_mask, texts_per_call)
        ]
        return np.concatenate([np.asarray(group) for group in groups], axis=2)[:, :, : len(text_ids)]


def _text_groups(
    text_ids: np.ndarray, text_mask: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield groups of `size` texts; the last is filled by repeating its last text."""
    size = min(size, len(text_ids))
    for start in range(0, len(text_ids), size):
        rows = np.minimum(np.arange(start, start + size), len(text_ids) - 1)
        yield text_ids[rows], text_mask[rows]


def match_matrix(
    scorer: Scorer,
    task: MatchTask,
    videos: Iterable[tuple[UInt8[np.ndarray, "b k t h w 3"], Bool[np.ndarray, " b"]]],
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
    *,
    texts_per_call: int = 64,
    on_progress: Callable[[int], None] = lambda num_videos: None,
) -> Float[np.ndarray, "videos n"]:
    """Return the pooled match logit of every video with every text.

    Args:
      scorer: the model.
      task: pools clips and turns scores into match logits.
      videos: batches of frames and which of their rows are videos (False rows are dropped).
      text_ids: all texts.
      text_mask: True at real tokens.
      texts_per_call: how many texts are scored in one device call.
      on_progress: called with the number of videos done so far.
    """
    pool = jax.jit(task.match_logit)
    rows: list[np.ndarray] = []
    for frames, example_mask in videos:
        scores = scorer.score_texts(frames, text_ids, text_mask, texts_per_call=texts_per_call)
        rows.append(np.asarray(pool(scores))[example_mask])
        on_progress(sum(len(row) for row in rows))
    return np.concatenate(rows)
