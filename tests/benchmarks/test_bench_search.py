"""The benchmark of search runs, and its table says what was measured."""

import json

import pytest

from benchmarks import bench_search
from data_pipelines.decoding.examine import examine_video


@pytest.mark.slow
def test_a_small_measurement_writes_both_files(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_search, "LARGE_SECONDS", 1)
    options = ["--num-videos", "9", "--num-clips", "2", "--num-workers", "1", "--out", str(tmp_path / "out")]
    options += ["--num-480p", "2"]
    record = bench_search.main(options)
    assert record["num_indexed"] == 9
    assert json.loads((tmp_path / "out.json").read_text()) == record
    seconds = record["seconds"]
    assert seconds["known_query"] < seconds["other_query"] < seconds["first_query"]
    assert seconds["same_command"] < seconds["second_command"] < seconds["first_command"]
    written = (tmp_path / "out.md").read_text()
    assert f"| index | {seconds['index']:.2f} | " in written
    assert f"| index 2 videos of 640x480, 1 s each | {seconds['index_480p']:.2f} | " in written


def test_large_videos_are_no_copies_of_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_search, "LARGE_SECONDS", 1)
    bench_search.write_large_videos(tmp_path / "large", 3)
    files = sorted((tmp_path / "large").iterdir())
    assert len({path.read_bytes() for path in files}) == 3
    for path in (files[0], files[-1]):
        index = examine_video(path).index
        assert (index.width, index.height, len(index.frame_times)) == (640, 480, 30)
