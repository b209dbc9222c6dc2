"""Several passes of clips through the model, which save memory and compute the scores twice.

A loss needs the scores of all clips of a video. So the model runs in a loop over groups of clips, and again
for each group in the backward pass; only scores are kept for all groups. The original's loop over clips kept
everything. The train step calls it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from clipbert_jax.models.clipbert import ClipBertOutput

Score = Callable[[jax.Array, jax.Array], ClipBertOutput]
"""(frames [b k t h w 3], dropout key) -> scores of all texts of these videos against these clips."""


def score_in_passes(
    score: Score,
    frames: Shaped[Array, "b k t h w 3"],
    key: jax.Array,
    clips_per_pass: int,
    *,
    is_unrolled: bool = False,
) -> ClipBertOutput:
    """Return `score(frames, key)`, computed a few clips at a time.

    Every pass has its own dropout key: its draws differ from those of a single pass, and have the same
    distribution. Without dropout the results are the same but for rounding.

    Args:
      score: model.
      frames: frames of all clips.
      key: dropout key.
      clips_per_pass: number of clips per video in one pass; 0 takes all.
      is_unrolled: whether to write the loop out.

    Raises:
      ValueError: `clips_per_pass` does not divide the number of clips.
    """
    num_clips = frames.shape[1]
    if clips_per_pass in (0, num_clips):
        return score(frames, key)
    if num_clips % clips_per_pass:
        raise ValueError(
            f"{num_clips} clips do not divide into passes of {clips_per_pass}: set train.clips_per_pass to a "
            "divisor of data.num_clips."
        )

    @jax.checkpoint
    def one_pass(index: jax.Array, frames: jax.Array) -> tuple[jax.Array | None, ...]:
        output = score(frames, jax.random.fold_in(key, index))
        return output.scores, output.token_scores, output.pooled

    num_passes = num_clips // clips_per_pass
    groups = frames.reshape(frames.shape[0], num_passes, clips_per_pass, *frames.shape[2:]).swapaxes(0, 1)
    _, outputs = jax.lax.scan(
        lambda _, group: (None, one_pass(*group)),
        None,
        (jnp.arange(num_passes), groups),
        unroll=is_unrolled,
    )
    scores, token_scores, pooled = jax.tree.map(_join_clips, outputs)
    return ClipBertOutput(scores=scores, token_scores=token_scores, pooled=pooled)


def _join_clips(x: Shaped[Array, "passes b m ..."]) -> Shaped[Array, "b k ..."]:
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
