from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import bench
from benchmarks.report import markdown

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("bench") / "bench"
    # Processes of their own: as the benchmark does it, and without the shape checks of this one.
    options = [
        "--smoke",
        "--workload",
        "retrieval training",
        "pair scoring",
        "--steps",
        "2",
        "--out",
        str(out),
    ]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.bench", *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert out.with_name("bench.md").read_text().count("| retrieval training |") == 1
    return json.loads(out.with_name("bench.json").read_text())


@pytest.mark.slow
def test_a_run_records_times_rates_and_memory(record):
    assert record["device"]["count"] == 8
    assert record["versions"]["jax"]
    assert [row["workload"] for row in record["rows"]] == ["retrieval training", "pair scoring"]
    for row in record["rows"]:
        ours = row["ours"]
        assert 0 < ours["p10_seconds"] <= ours["median_seconds"] <= ours["p90_seconds"]
        assert ours["num_steps"] == 2
        assert ours["dispatch_seconds"] > 0
        assert ours["peak_bytes"] > 1e7
        assert 0 < ours["flops_share"] < 1
        assert ours["floor_seconds"] == pytest.approx(ours["floor_share"] * ours["median_seconds"])
    training, pairs = (row["ours"] for row in record["rows"])
    assert training["items_per_second"] == pytest.approx(8 / training["median_seconds"])
    # 8 videos of 2 clips, each clip against 2 texts.
    assert pairs["items_per_second"] == pytest.approx(32 / pairs["median_seconds"])
    assert training["loss"] > 0


@pytest.mark.slow
def test_the_parts_of_the_model_are_timed(record):
    training, pairs = (row["stages"] for row in record["rows"])
    assert set(training) == {"stem", "res2", "res3", "grid_encoder", "fusion"}
    assert set(pairs) == {"fusion"}
    # Nothing of the small model is frozen.
    assert all("backward" in seconds for seconds in training.values())
    assert "backward" not in pairs["fusion"]


@pytest.mark.slow
def test_the_report_shows_ratios_floors_and_what_failed(record):
    training = next(row for row in record["rows"] if row["workload"] == "retrieval training")
    ours = training["ours"] | {"median_seconds": 0.1, "batch_size": 16}
    seconds = {"forward": 0.004, "forward_floor": 0.003, "backward": 0.008, "backward_floor": 0.006}
    stages = {"stages": {"fusion": seconds}}
    rows = [
        training | {"set": "accelerator", "ours": ours, "peer": {"median_seconds": 0.15}} | stages,
        {"workload": "inference", "set": "accelerator", "ours": {"out_of_memory": True}},
        {"workload": "pretraining", "set": "accelerator", "ours": {"problem": "no time left"}},
    ]
    text = markdown(record | {"rows": rows, "device": {"kind": "NVIDIA H100", "platform": "gpu", "count": 1}})
    assert "| 0.67 |" in text
    assert "out of memory" in text
    assert "no time left" in text
    assert "| fusion | 4.00 | 3.00 | 8.00 | 6.00 |" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workload", "nothing"], "no workload 'nothing' in this set; there are retrieval training, "),
        (["--steps", "0"], "--steps takes a number from 1 on, not 0"),
        (["--rounds", "0"], "--rounds takes a number from 1 on, not 0"),
        (["--batch-size", "-1"], "--batch-size takes a number from 1 on, not -1"),
        (["--minutes", "0"], "--minutes takes a number above 0, not 0"),
        (["--peer-python", "no-such-python"], "--peer-python no-such-python"),
        (["--out", "/proc/no/out"], "--out /proc/no/out cannot be written"),
    ],
)
def test_mistakes_are_said_before_anything_is_measured(options, message, monkeypatch, capsys):
    monkeypatch.setattr(bench, "run_child", lambda *args, **kwargs: pytest.fail("it was measured"))
    with pytest.raises(SystemExit) as exit_:
        bench.main(["--smoke", *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def run_bench(monkeypatch, tmp_path, ours):
    """Run the smoke set where each child finds the same; return the exit code and how many were started."""
    commands = []
    monkeypatch.setattr(bench, "run_child", lambda command, **kwargs: commands.append(command) or ours)
    monkeypatch.setattr(bench.tempfile, "tempdir", str(tmp_path))
    code = 0
    try:
        bench.main(["--smoke"])
    except SystemExit as exit_:
        code = exit_.code
    return code, commands


@pytest.mark.parametrize(
    ("found", "is_failure"),
    [({"out_of_memory": True}, False), ({"problem": "took too long"}, True), ({"problem": "an error"}, True)],
)
def test_only_want_of_memory_is_no_failure(found, is_failure, monkeypatch, tmp_path):
    code, commands = run_bench(monkeypatch, tmp_path, found)
    assert ("retrieval training (ours)" in str(code)) == is_failure == (code != 0)
    # Of the other workloads the model alone is timed.
    assert len([command for command in commands if "benchmarks.measure" in command]) == 6
    assert len(list(tmp_path.glob("clipbert-bench-*/*.json"))) == 1
