"""Evaluation: texts against videos, each video encoded once, for several numbers of clips in one pass.

After training and before the metrics. A task's scores of every clip are reduced on the device to what its
evaluation needs (a match logit, the best answers), so that nothing large is kept. Work goes to the devices in
tiles of few shapes (what is short is filled and cut off again), one program for each length of texts; the
result does not depend on how videos or texts are grouped. Calls are dispatched ahead of the results that are
fetched, so neither the devices nor the host wait for each other at every call (docs/adr/0011).
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.evaluation.query_tiles import QueryTile, QueryTiles
from clipbert_jax.evaluation.scorer import Reduce, Scorer, Scores
from clipbert_jax.evaluation.text_buckets import text_lengths, texts_by_bucket

Reduced = dict[str, np.ndarray]
"""What is kept of the scores of some queries; the first axis counts queries."""

Videos = Iterable[tuple[UInt8[np.ndarray, "b k t h w 3"], Bool[np.ndarray, " b"]]]
"""Batches of frames, and which of their rows are videos: the first ones. The clips of several numbers of
clips follow each other: with 1 and 4 clips k is 5. Of several processes each has the frames of its own rows,
as many as the others, and the mask of all rows."""

Encoded = Iterable[tuple[Float[jax.Array, "rows k v d"], Bool[np.ndarray, " b"]]]
"""Batches of visual tokens as `Scorer.encode` returns them, and which of their rows are videos."""

OnProgress = Callable[[int], None]

TOKENS_PER_CALL = 288_000
"""Tokens of texts and clips together that one device scores in one call, at most. These are 4 videos of 16
clips and 64 texts at 448 pixels: enough to fill any device, and the widest activation of the base model has
1.8 GB in bfloat16."""

_NUM_AHEAD = 4
"""Calls that are dispatched before the result of one is fetched; bounds what is in flight on the devices."""

_Call = TypeVar("_Call")


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
      texts_per_call: how many texts are scored in one device call, at most.
      on_progress: called with the number of videos done so far.
    """
    batches: list[dict[int, Reduced]] = []
    num_done = 0
    for rows in score_batches(
        scorer, reduce, videos, text_ids, text_mask, num_clips=num_clips, texts_per_call=texts_per_call
    ):
        batches.append(rows)
        num_done += len(jax.tree.leaves(rows)[0])
        on_progress(num_done)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


def score_batches(
    scorer: Scorer,
    reduce: Reduce,
    videos: Videos,
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
    *,
    num_clips: Sequence[int],
    texts_per_call: int = 64,
) -> Iterator[dict[int, Reduced]]:
    """Yield what `score_all_pairs` returns batch by batch, for those who do not keep all of it."""
    encoded = ((scorer.encode(frames), example_mask) for frames, example_mask in videos)
    yield from score_encoded(
        scorer, reduce, encoded, text_ids, text_mask, num_clips=num_clips, texts_per_call=texts_per_call
    )


def score_encoded(
    scorer: Scorer,
    reduce: Reduce,
    encoded: Encoded,
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
    *,
    num_clips: Sequence[int],
    texts_per_call: int = 64,
) -> Iterator[dict[int, Reduced]]:
    """Yield what `score_batches` does, of videos that are encoded already; all batches have one shape."""
    calls = _text_calls(scorer, reduce, encoded, text_ids, text_mask, num_clips, texts_per_call)
    places: list[np.ndarray] = []
    parts: list[dict[int, Reduced]] = []
    for call, scores in _fetched(calls):
        places.append(call.texts)
        parts.append(jax.tree.map(lambda x, call=call: x[call.videos, : len(call.texts)], scores))
        if call.is_last_of_batch:
            yield _joined(parts, np.concatenate(places), axis=1)
            places, parts = [], []


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
    """Return, for each number of clips, the reduced scores [m n ...] of every query with its own video.

    Arguments as in `score_all_pairs`; the longest text of a query decides how long all of its texts are.
    """
    num_videos = 0

    def counted_videos() -> Videos:
        nonlocal num_videos
        for frames, example_mask in videos:
            num_videos += int(example_mask.sum())
            yield frames, example_mask

    calls = _query_calls(scorer, reduce, counted_videos(), queries, num_clips, texts_per_call)
    places: list[np.ndarray] = []
    parts: list[dict[int, Reduced]] = []
    num_done = 0
    for tile, scores in _fetched(calls):
        is_query = tile.queries >= 0
        places.append(tile.queries[is_query])
        parts.append(jax.tree.map(lambda x, rows=is_query: x[rows], scores))
        if tile.num_complete > num_done:
            num_done = tile.num_complete
            on_progress(num_done)
    on_progress(num_videos)
    return _joined(parts, np.concatenate(places), axis=0)


def _joined(parts: Sequence[dict[int, Reduced]], places: np.ndarray, *, axis: int) -> dict[int, Reduced]:
    """Put parts together so that what they hold stands at its place."""
    order = np.argsort(places)
    return jax.tree.map(lambda *xs: np.take(np.concatenate(xs, axis), order, axis), *parts)


def _fetched(calls: Iterable[tuple[_Call, Scores]]) -> Iterator[tuple[_Call, dict[int, Reduced]]]:
    """Yield results in order and on the host, each after some later calls have been dispatched."""
    pending: collections.deque[tuple[_Call, Scores]] = collections.deque()
    for call, scores in calls:
        for array in jax.tree.leaves(scores):
            array.copy_to_host_async()
        pending.append((call, scores))
        if len(pending) > _NUM_AHEAD:
            call, scores = pending.popleft()
            yield call, jax.device_get(scores)
    for call, scores in pending:
        yield call, jax.device_get(scores)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _TextCall:
    """What a call with some texts scores; its arrays may have more videos and texts than these."""

    videos: Int[np.ndarray, " rows"]
    texts: Int[np.ndarray, " some"]
    is_last_of_batch: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _TextTile:
    """Texts on the devices that are scored in one call; the last of them may be repeated."""

    texts: Int[np.ndarray, " some"]
    ids: Int[jax.Array, "n l"]
    mask: Bool[jax.Array, "n l"]


def _text_calls(
    scorer: Scorer,
    reduce: Reduce,
    encoded: Encoded,
    text_ids: np.ndarray,
    text_mask: np.ndarray,
    num_clips: Sequence[int],
    texts_per_call: int,
) -> Iterator[tuple[_TextCall, Scores]]:
    """Dispatch all texts against each batch of videos, after the encoding that it may be due to."""
    score = scorer.compiled(reduce, num_clips)
    tiles: list[_TextTile] = []
    for visual_tokens, example_mask in encoded:
        if not tiles:  # they stay on the devices for all batches
            num_rows, num_clips_in_all, num_tokens, _ = visual_tokens.shape
            clips = num_rows // scorer.num_devices * num_clips_in_all
            bound = _Bound(texts=texts_per_call, clips=clips, visual_tokens=num_tokens)
            tiles = list(_text_tiles(scorer, text_ids, text_mask, bound))
        for tile in tiles:
            call = _TextCall(
                videos=np.flatnonzero(example_mask), texts=tile.texts, is_last_of_batch=tile is tiles[-1]
            )
            yield call, score(visual_tokens, tile.ids, tile.mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bound:
    """What bounds the texts of a call."""

    texts: int
    """More than these are not wanted."""
    clips: int
    """What each text meets on a device."""
    visual_tokens: int
    """Of a clip."""

    def num_texts(self, length: int) -> int:
        """Return how many texts of a length one call may have on each device."""
        return max(1, min(self.texts, TOKENS_PER_CALL // (self.clips * (self.visual_tokens + length))))


def _text_tiles(
    scorer: Scorer, text_ids: np.ndarray, text_mask: np.ndarray, bound: _Bound
) -> Iterator[_TextTile]:
    """Put all texts on the devices, in tiles that have one size for each length of texts."""
    lengths = text_lengths(text_mask)
    for length, texts in texts_by_bucket(lengths, text_mask.shape[1], scorer.bucket_lengths):
        num_tiles = math.ceil(len(texts) / bound.num_texts(length))
        size = math.ceil(len(texts) / num_tiles)
        for start in range(0, len(texts), size):
            filled = texts[np.minimum(np.arange(start, start + size), len(texts) - 1)]
            yield _TextTile(
                texts=texts[start : start + size],
                ids=scorer.put_everywhere(text_ids[filled, :length]),
                mask=scorer.put_everywhere(text_mask[filled, :length]),
            )


def _query_tiles(scorer: Scorer, queries: Queries, bound: _Bound) -> QueryTiles:
    """Return which queries are scored together, by the longest text of each."""
    num_texts, longest = queries.text_mask.shape[1:]
    lengths = text_lengths(queries.text_mask).max(axis=1)
    by_length = dict(texts_by_bucket(lengths, longest, scorer.bucket_lengths))
    return QueryTiles(
        queries.video,
        by_length,
        num_devices=scorer.num_devices,
        queries_per_call={length: max(1, bound.num_texts(length) // num_texts) for length in by_length},
    )


def _query_calls(
    scorer: Scorer,
    reduce: Reduce,
    videos: Videos,
    queries: Queries,
    num_clips: Sequence[int],
    texts_per_call: int,
) -> Iterator[tuple[QueryTile, Scores]]:
    """Dispatch, for each batch of videos, its encoding and then the tiles that are due."""
    score = scorer.compiled_queries(reduce, num_clips)
    tiles: QueryTiles | None = None
    two_batches: tuple[jax.Array, ...] = ()

    def run(tile: QueryTile) -> tuple[QueryTile, Scores]:
        which = np.maximum(tile.queries, 0)
        texts = queries.text_ids[which, :, : tile.length], queries.text_mask[which, :, : tile.length]
        return tile, score(*two_batches, *map(scorer.put_split, (tile.rows, *texts)))

    for frames, example_mask in videos:
        latest = scorer.encode(frames)
        two_batches = (two_batches[-1] if two_batches else latest, latest)
        num_rows, num_clips_in_all, num_tokens, _ = latest.shape
        bound = _Bound(texts=texts_per_call, clips=num_clips_in_all, visual_tokens=num_tokens)
        tiles = tiles or _query_tiles(scorer, queries, bound)
        due = tiles.after_batch(int(example_mask.sum()), num_rows // scorer.num_devices)
        yield from map(run, due)
    yield from map(run, tiles.rest() if tiles else ())
