"""The benchmark of search runs, and its table says what was measured."""

import json

import pytest

from benchmarks import bench_search


@pytest.mark.slow
def test_a_small_measurement_writes_both_files(tmp_path):
    options = ["--num-videos", "9", "--num-clips", "2", "--num-workers", "1", "--out", str(tmp_path / "out")]
    record = bench_search.main(options)
    assert record["num_indexed"] == 9
    assert json.loads((tmp_path / "out.json").read_text()) == record
    seconds = record["seconds"]
    assert seconds["known_query"] < seconds["other_query"] < seconds["first_query"]
    assert seconds["process_known_text"] < seconds["process_new_text"]
    assert f"| index | {seconds['index']:.2f} | " in (tmp_path / "out.md").read_text()
