from __future__ import annotations

import numpy as np
import pytest

from benchmarks import bench_data
from benchmarks.synthetic_videos import FRAMES_PER_SECOND, Source, encode_source
from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine_video

SOURCE = Source(width=64, height=48, gop=30)


@pytest.fixture(scope="module")
def data() -> bytes:
    return encode_source(SOURCE, seconds=4, seed=0)


def test_sources_are_what_they_are_called(data):
    index = examine_video(data).index
    assert (index.width, index.height) == (64, 48)
    assert np.diff(index.key_frames).max() <= SOURCE.gop < len(index.frame_times)


def test_the_peers_read_what_they_should(data):
    video = examine_video(data)
    assert bench_data.decode_all(data) == len(video.index.frame_times) == 4 * FRAMES_PER_SECOND
    clip = bench_data.read_clip(data, 1.0)  # frames 25 to 50
    np.testing.assert_array_equal(clip, read_frames(data, np.array([25, 50]), video.index))


def test_the_table_has_every_reader(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_data, "QUICK", (SOURCE,))
    record = bench_data.main(["--quick", "--out", str(tmp_path / "data")])
    assert [row["source"] for row in record["measurements"]] == ["64x48 GOP 30"] * 2
    for row in record["measurements"]:
        rates = row["videos_per_second_per_core"]
        assert {bench_data.FLOOR, bench_data.PEER, "ours", "compact", "frames"} < set(rates)
        assert all(rate > 0 for rate in rates.values())
    table = (tmp_path / "data.md").read_text()
    assert table.count("| 64x48 GOP 30 |") == 2
    assert "training, 8 random clips" in capsys.readouterr().out
