"""Which queries are scored together: each once, with its own video, in full tiles of few shapes."""

import numpy as np
import pytest

from clipbert_jax.evaluation.query_tiles import QueryTiles

NUM_VIDEOS, SHORT, LONG = 40, 16, 32


@pytest.fixture
def video():
    """Four queries for each video on average, in no order; the first has none."""
    return np.random.default_rng(0).integers(1, NUM_VIDEOS, 4 * NUM_VIDEOS)


def make_tiles(video, num_devices, queries_per_call=64):
    is_short = np.random.default_rng(1).random(len(video)) < 0.6
    return QueryTiles(
        video,
        {SHORT: np.flatnonzero(is_short), LONG: np.flatnonzero(~is_short)},
        num_devices=num_devices,
        queries_per_call=dict.fromkeys((SHORT, LONG), queries_per_call),
    ), is_short


def run(tiles, num_devices, num_rows):
    """Yield each tile with the videos [devices rows] that are on the devices; -1 where there is none."""
    videos_per_batch = num_devices * num_rows
    before = latest = np.zeros((num_devices, 0), int)
    for first in range(0, NUM_VIDEOS, videos_per_batch):
        videos = np.arange(first, first + videos_per_batch)
        videos[videos >= NUM_VIDEOS] = -1
        before, latest = latest, videos.reshape(num_devices, num_rows)
        for tile in tiles.after_batch(int((videos >= 0).sum()), num_rows):
            yield tile, np.concatenate([before, latest], axis=1)
    for tile in tiles.rest():
        yield tile, np.concatenate([before, latest], axis=1)


@pytest.mark.parametrize(("num_devices", "num_rows"), [(1, 1), (1, 8), (1, 64), (4, 1), (4, 3)])
def test_each_query_meets_its_own_video_once(video, num_devices, num_rows):
    tiles, is_short = make_tiles(video, num_devices)
    asked = []
    for tile, on_devices in run(tiles, num_devices, num_rows):
        queries, rows = (x.reshape(num_devices, -1) for x in (tile.queries, tile.rows))
        is_query = queries >= 0
        found = np.take_along_axis(on_devices, rows, axis=1)
        np.testing.assert_array_equal(found[is_query], video[queries[is_query]])
        np.testing.assert_array_equal(is_short[queries[is_query]], tile.length == SHORT)
        assert not set(np.flatnonzero(video < tile.num_complete)) - {*asked}
        asked += queries[is_query].tolist()
    assert sorted(asked) == list(range(len(video)))


@pytest.mark.parametrize("queries_per_call", [3, 64])
def test_tiles_are_full_and_of_one_size_for_each_length(video, queries_per_call):
    tiles, _ = make_tiles(video, 1, queries_per_call)
    sizes = {SHORT: set(), LONG: set()}
    num_places = 0
    for tile, _ in run(tiles, 1, 8):
        sizes[tile.length].add(len(tile.queries))
        num_places += len(tile.queries)
    assert [len(of_length) for of_length in sizes.values()] == [1, 1]
    assert max(max(of_length) for of_length in sizes.values()) <= queries_per_call
    assert num_places <= 1.1 * len(video)
