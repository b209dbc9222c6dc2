"""Scores texts against videos: each video is encoded once, for several numbers of clips in one pass.

Evaluators and prediction call it. The scores of every clip are reduced on the device to what an evaluation
needs (a match logit, the best answers), so nothing large is kept. Work goes to the devices in tiles of few
shapes, which are filled up and cut off again, with one program for each length of texts. The result does not
depend on how videos or texts are grouped. Calls are dispatched ahead of the results that are fetched, so the
devices and the host do not wait for each other at every call (docs/adr/0011).
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
from clipbert_jax.evaluation.scorer import Reduce, Scorer, Scores, query_program, tile_program
from clipbert_jax.evaluation.text_buckets import text_lengths, texts_by_bucket

Reduced = dict[str, np.ndarray]
"""Reduced scores of some queries; the first axis counts queries."""

Videos = Iterable[tuple[UInt8[np.ndarray, "b k t h w 3"], Bool[np.ndarray, " b"]]]
"""Batches of frames, and a mask of the rows that are videos: the first ones. The clips of several numbers of
clips follow each other: with 1 and 4 clips k is 5. Each of several processes has the frames of its own rows,
as many as the others, and the mask of all rows."""

Encoded = Iterable[tuple[Float[jax.Array, "rows k v d"], Bool[np.ndarray, " b"]]]
"""Batches of visual tokens as `Scorer.encode` returns them, and a mask of the rows that are videos."""

OnProgress = Callable[[int], None]

TOKENS_PER_CALL = 288_000
"""Largest number of tokens of texts and clips that one device scores in one call. It holds 4 videos of 16
clips and 64 texts at 448 pixels, which is enough to fill any device. The widest activation of the base model
then has 1.8 GB in bfloat16."""

_NUM_AHEAD = 4
"""Number of calls dispatched before a result is fetched; bounds the work in flight on the devices."""

_Call = TypeVar("_Call")


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
    """Yield, batch by batch, the reduced scores [videos n ...] of every video with every text.

    Each result has the scores for each number of clips.

    Args:
      scorer: the model.
      reduce: what to keep of the scores.
      videos: see `Videos`.
      text_ids: all texts.
      text_mask: True at real tokens.
      num_clips: numbers of clips, in the order in which they follow each other.
      texts_per_call: largest number of texts in one device call.
    """
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
    """Yield the result of `score_batches` for encoded videos; all batches have one shape."""
    calls = _text_calls(scorer, reduce, encoded, text_ids, text_mask, num_clips, texts_per_call)
    places: list[np.ndarray] = []
    parts: list[dict[int, Reduced]] = []
    for (rows, texts, is_last), scores in _fetched(calls):
        places.append(texts)
        parts.append(jax.tree.map(lambda x, rows=rows, texts=texts: x[rows, : len(texts)], scores))
        if is_last:
            yield _joined(parts, np.concatenate(places), axis=1)
            places, parts = [], []


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Queries:
    """Texts that belong to one video each: a question, or the options of a question."""

    text_ids: Int[np.ndarray, "m n l"]
    text_mask: Bool[np.ndarray, "m n l"]
    video: Int[np.ndarray, " m"]
    """Index of the video of each query, in the order in which videos come."""


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

    Arguments as in `score_batches`; the longest text of a query decides how long all of its texts are.
    `on_progress` gets the number of videos done so far.
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
    """Concatenate parts, with each row at its place."""
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
class _TextTile:
    """Texts on the devices that are scored in one call; the last one may be repeated."""

    texts: Int[np.ndarray, " some"]
    ids: Int[jax.Array, "n l"]
    mask: Bool[jax.Array, "n l"]


_TextCall = tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " some"], bool]
"""Videos and texts of one call, whose arrays may have more rows; and whether it is the last of a batch."""


def _text_calls(
    scorer: Scorer,
    reduce: Reduce,
    encoded: Encoded,
    text_ids: np.ndarray,
    text_mask: np.ndarray,
    num_clips: Sequence[int],
    texts_per_call: int,
) -> Iterator[tuple[_TextCall, Scores]]:
    """Dispatch all texts against each batch of videos."""
    score = scorer.compiled(tile_program, reduce, num_clips)
    tiles: list[_TextTile] = []
    for visual_tokens, example_mask in encoded:
        if not tiles:  # tiles stay on the devices for all batches
            num_rows, num_clips_in_all, num_tokens, _ = visual_tokens.shape
            clips = num_rows // scorer.num_devices * num_clips_in_all
            bound = _Bound(texts=texts_per_call, clips=clips, visual_tokens=num_tokens)
            tiles = list(_text_tiles(scorer, text_ids, text_mask, bound))
        for tile in tiles:
            call = np.flatnonzero(example_mask), tile.texts, tile is tiles[-1]
            yield call, score(visual_tokens, tile.ids, tile.mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bound:
    """Limits of the texts of a call."""

    texts: int
    """Largest number of texts that the caller wants."""
    clips: int
    """Number of clips on a device that each text meets."""
    visual_tokens: int
    """Number of visual tokens of a clip."""

    def num_texts(self, length: int) -> int:
        """Return how many texts of a length one call may hold on each device."""
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
    score = scorer.compiled(query_program, reduce, num_clips)
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
