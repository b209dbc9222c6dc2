"""Query tiles: groups of queries that are scored together, where each query belongs to one video.

`score` runs them. A tile has a fixed number of queries per device, with texts of one length. Queries that do
not fill a tile wait for the next batch of videos, whose queries fill it. The visual tokens of two batches are
on the devices, so no query waits longer.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class QueryTile:
    """Queries that are scored in one call; those of a device follow each other."""

    length: int
    """Length that their texts are cut to."""
    queries: Int[np.ndarray, " q"]
    """Indices of queries; -1 fills up."""
    rows: Int[np.ndarray, " q"]
    """Row of the video among those of the previous and then of the latest batch on the device."""
    num_complete: int
    """Number of videos, from the first on, whose queries are all in earlier tiles."""


@dataclasses.dataclass(frozen=True)
class _Waiting:
    query: int
    batch: int
    row: int
    """Row of the video among those of this batch on its device."""


class QueryTiles:
    """Takes batches of videos one by one, and yields the tiles that are due after each."""

    def __init__(
        self,
        video: Int[np.ndarray, " m"],
        queries_by_length: Mapping[int, Int[np.ndarray, " some"]],
        *,
        num_devices: int,
        queries_per_call: Mapping[int, int],
    ) -> None:
        """Take all queries.

        Args:
          video: index of the video of each query, in the order in which videos come.
          queries_by_length: queries by the length that their texts are cut to.
          num_devices: number of devices that each batch of videos is split over.
          queries_per_call: largest number of queries per device in a tile, by length.
        """
        self._video = video
        self._queries_by_length = queries_by_length
        self._num_devices = num_devices
        self._queries_per_call = queries_per_call
        self._length = {int(q): length for length, some in queries_by_length.items() for q in some}
        self._in_order = np.argsort(video, kind="stable")
        self._sorted_videos = video[self._in_order]
        self._waiting = {
            length: [collections.deque[_Waiting]() for _ in range(num_devices)]
            for length in queries_by_length
        }
        self._num_batches = self._rows_before = self._rows_now = 0
        self._videos_after = [0, 0]

    def after_batch(self, num_videos: int, num_rows: int) -> Iterator[QueryTile]:
        """Yield the tiles that are due when one more batch of videos is encoded.

        Args:
          num_videos: number of videos in the batch.
          num_rows: number of its rows on each device; the first ones are the videos.
        """
        self._num_batches += 1
        self._rows_before, self._rows_now = self._rows_now, num_rows
        first = self._videos_after[-1]
        self._videos_after.append(first + num_videos)
        for query in self._asked_of(first, first + num_videos):
            device, row = divmod(int(self._video[query]) - first, num_rows)
            self._waiting[self._length[query]][device].append(_Waiting(query, self._num_batches, row))
        for length in self._waiting:
            while self._is_due(length):
                yield self._next_tile(length)

    def rest(self) -> Iterator[QueryTile]:
        """Yield the tiles of the queries that still wait after the last batch."""
        for length, of_devices in self._waiting.items():
            while any(of_devices):
                yield self._next_tile(length)

    def _asked_of(self, first: int, end: int) -> list[int]:
        return self._in_order[slice(*np.searchsorted(self._sorted_videos, [first, end]))].tolist()

    def _is_due(self, length: int) -> bool:
        """Return whether a tile is full, or cannot wait as the batch after this one replaces its videos."""
        of_devices, size = self._waiting[length], self._size(length)
        is_last_chance = any(waiting and waiting[0].batch < self._num_batches for waiting in of_devices)
        return is_last_chance or all(len(waiting) >= size for waiting in of_devices)

    def _size(self, length: int) -> int:
        """Return the queries per device of a tile: the average of a batch of videos, within bounds."""
        num_queries = len(self._queries_by_length[length])
        average = num_queries * self._rows_now / (1 + int(self._sorted_videos[-1]))
        return max(1, min(self._queries_per_call[length], math.ceil(average)))

    def _next_tile(self, length: int) -> QueryTile:
        size = self._size(length)
        queries = np.full((self._num_devices, size), -1, np.int32)
        rows = np.zeros((self._num_devices, size), np.int32)
        for device, waiting in enumerate(self._waiting[length]):
            for place in range(min(size, len(waiting))):
                item = waiting.popleft()
                queries[device, place] = item.query
                is_new = item.batch == self._num_batches
                rows[device, place] = item.row + (self._rows_before if is_new else 0)
        return QueryTile(
            length=length,
            queries=queries.reshape(-1),
            rows=rows.reshape(-1),
            num_complete=self._videos_after[-3],
        )
