"""Query tiles: which queries are scored together, when each is asked of one video.

Beside `evaluation`, which runs them. A tile has a fixed number of queries, of texts of one length, for every
device. What does not fill a tile waits for the next batch of videos, whose queries fill it; the visual tokens
of two batches are on the devices, so nothing waits longer.
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
    """What their texts are cut to."""
    queries: Int[np.ndarray, " q"]
    """-1 where there is none."""
    rows: Int[np.ndarray, " q"]
    """The place of the video among those that the device has of the batch before and then of the latest."""
    num_complete: int
    """How many videos, the first ones, have all their queries in earlier tiles."""


@dataclasses.dataclass(frozen=True)
class _Waiting:
    query: int
    batch: int
    row: int
    """Place of the video among those that its device has of this batch."""


class QueryTiles:
    """Takes the batches of videos as they come, and says after each which tiles are due."""

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
          video: of each query, the place of its video in the order in which videos come.
          queries_by_length: which queries are cut to which length.
          num_devices: that each batch of videos is split over.
          queries_per_call: for each length, most queries of a tile on one device.
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
          num_videos: how many videos the batch has.
          num_rows: how many rows it has on each device; the first ones are the videos.
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
        """Yield what still waits after the last batch."""
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
        """Return queries of a tile on one device: what a batch of videos has on average, within bounds."""
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
