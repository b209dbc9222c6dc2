"""Evaluation: texts against videos, each video encoded once, for several numbers of clips in one pass.

After training and before the metrics. A task's scores of every clip are reduced on the device to what its
evaluation needs (a match logit, the best answers), so that nothing large is kept. Shapes are fixed (short
last groups are filled and cut off again), so one program is compiled and the result does not depend on how
videos or texts are grouped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.skeleton import Parameters, Skeleton

Reduced = dict[str, np.ndarray]
"""What is kept of the scores of some queries; the first axis counts queries."""

Reduce = Callable[[ClipBertOutput], dict[str, jax.Array]]
"""Output of the model for [b k n] -> arrays [b n ...]; traced under `jax.jit`."""

Videos = Iterable[tuple[UInt8[np.ndarray, "b k t h w 3"], Bool[np.ndarray, " b"]]]
"""Batches of frames, and which of their rows are videos. The clips of several numbers of clips follow each
other: with 1 and 4 clips k is 5."""

OnProgress = Callable[[int], None]


@runtime_checkable
class MatchTask(Protocol):
    """A task whose scores say how well a text matches a video."""

    def match_logit(self, scores: jax.Array) -> jax.Array:
        """Pool scores [b k n a] over the clips and return match logits [b n]."""
        ...


class Scorer:
    """Scores videos against texts with the parameters of one model; `parameters` may be replaced."""

    def __init__(self, skeleton: Skeleton, parameters: Parameters) -> None:
        self.parameters = parameters
        self._skeleton = skeleton

        @jax.jit
        def encode(parameters: Parameters, frames: jax.Array) -> jax.Array:
            return skeleton.merge(parameters).encode_video(frames)

        self._encode = encode
        self._compiled: dict[tuple[Reduce, tuple[int, ...]], Callable[..., dict[int, dict]]] = {}

    def encode(self, frames: UInt8[np.ndarray, "b k t h w 3"]) -> Float[jax.Array, "b k v d"]:
        """Return the visual tokens of some videos."""
        return self._encode(self.parameters, frames)

    def compiled(self, reduce: Reduce, num_clips: Sequence[int]) -> Callable[..., dict[int, dict]]:
        """Return (visual tokens [b k v d], text ids [b n l], text mask) -> {number of clips: reduced scores}.

        The same `reduce` is compiled once.

        Args:
          reduce: what to keep.
          num_clips: numbers of clips that follow each other along k; empty for one, all of them.
        """
        key = (reduce, tuple(num_clips))
        if key not in self._compiled:
            self._compiled[key] = self._compile(*key)
        return self._compiled[key]

    def _compile(self, reduce: Reduce, num_clips: tuple[int, ...]) -> Callable[..., dict[int, dict]]:
        @jax.jit
        def score(
            parameters: Parameters, visual_tokens: jax.Array, ids: jax.Array, mask: jax.Array
        ) -> dict[int, dict[str, jax.Array]]:
            output = self._skeleton.merge(parameters).score_texts(visual_tokens, ids, mask)
            counts = num_clips or (visual_tokens.shape[1],)
            return {count: reduce(clips) for count, clips in _split_clips(output, counts).items()}

        return lambda visual_tokens, ids, mask: score(self.parameters, visual_tokens, ids, mask)

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
        score = self.compiled(_scores_by_text, ())
        parts = _every_text(score, visual_tokens, text_ids, text_mask, texts_per_call)
        (reduced,) = parts.values()
        return np.moveaxis(reduced["scores"], 2, 1)


def score_all_pairs(
    scorer: Scorer,
    reduce: Reduce,
    videos: Videos,
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
    *,
    num_clips: Sequence[int],
    texts_per_call: int = 64,
    on_progress: OnProgress = lambda num_videos: None,
) -> dict[int, Reduced]:
    """Return, for each number of clips, the reduced scores [videos n ...] of every video with every text.

    Args:
      scorer: the model.
      reduce: what to keep of the scores.
      videos: see `Videos`.
      text_ids: all texts.
      text_mask: True at real tokens.
      num_clips: numbers of clips, in the order in which they follow each other.
      texts_per_call: how many texts are scored in one device call.
      on_progress: called with the number of videos done so far.
    """
    score = scorer.compiled(reduce, num_clips)
    batches: list[dict[int, Reduced]] = []
    num_done = 0
    for frames, example_mask in videos:
        rows = _every_text(score, scorer.encode(frames), text_ids, text_mask, texts_per_call)
        batches.append(jax.tree.map(lambda x, keep=example_mask: x[keep], rows))
        num_done += int(example_mask.sum())
        on_progress(num_done)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """Texts that are asked of one video each: a question, or the options of one."""

    text_ids: Int[np.ndarray, "m n l"]
    text_mask: Bool[np.ndarray, "m n l"]
    video: Int[np.ndarray, " m"]
    """Of each query, the place of its video in the order in which videos come."""


def score_queries(
    scorer: Scorer,
    reduce: Reduce,
    videos: Videos,
    queries: Queries,
    *,
    num_clips: Sequence[int],
    texts_per_call: int = 64,
    on_progress: OnProgress = lambda num_videos: None,
) -> dict[int, Reduced]:
    """Return, for each number of clips, the reduced scores [m n ...] of every query with its own video."""
    score = scorer.compiled(reduce, num_clips)
    queries_per_call = max(1, texts_per_call // queries.text_ids.shape[1])
    queries_per_video = len(queries.video) / (1 + queries.video.max())
    parts: list[dict[int, Reduced]] = []
    order: list[np.ndarray] = []
    num_done = 0
    for frames, example_mask in videos:
        first, num_done = num_done, num_done + int(example_mask.sum())
        asked = np.flatnonzero((queries.video >= first) & (queries.video < num_done))
        visual_tokens = scorer.encode(frames)
        size = min(queries_per_call, math.ceil(queries_per_video * len(frames)))
        for rows in _fixed_groups(len(asked), size):
            which = asked[rows]
            reduced = score(
                visual_tokens[queries.video[which] - first], queries.text_ids[which], queries.text_mask[which]
            )
            num_new = len(np.unique(rows))
            parts.append(jax.tree.map(lambda x, num_new=num_new: np.asarray(x)[:num_new], reduced))
            order.append(which[:num_new])
        on_progress(num_done)
    places = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[places], *parts)


def _scores_by_text(output: ClipBertOutput) -> dict[str, jax.Array]:
    return {"scores": jnp.moveaxis(output.scores, 1, 2)}


def _split_clips(output: ClipBertOutput, num_clips: Sequence[int]) -> dict[int, ClipBertOutput]:
    """Return the output for the clips of each number of clips."""
    ends = np.cumsum(num_clips).tolist()
    return {
        count: jax.tree.map(lambda x, start=end - count, end=end: x[:, start:end], output)
        for count, end in zip(num_clips, ends, strict=True)
    }


def _every_text(
    score: Callable[..., Mapping[int, dict]],
    visual_tokens: jax.Array,
    text_ids: np.ndarray,
    text_mask: np.ndarray,
    texts_per_call: int,
) -> dict[int, Reduced]:
    """Score all texts against every video, some at a time; the second axis of what comes out is the texts."""
    num_videos, num_texts = visual_tokens.shape[0], len(text_ids)

    def for_all_videos(x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(x, (num_videos, *x.shape))

    groups = [
        score(visual_tokens, for_all_videos(text_ids[rows]), for_all_videos(text_mask[rows]))
        for rows in _fixed_groups(num_texts, min(texts_per_call, num_texts))
    ]
    return jax.tree.map(
        lambda *parts: np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :num_texts], *groups
    )


def _fixed_groups(count: int, size: int) -> Iterator[np.ndarray]:
    """Yield positions in groups of `size`; the last is filled by repeating its last position."""
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)
