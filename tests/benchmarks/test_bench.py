from __future__ import annotations

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_smoke_run_writes_times_rates_and_memory(tmp_path: pathlib.Path):
    path = tmp_path / "bench.json"
    options = ["--smoke", "--dtype", "bfloat16", "--steps", "2", "--out", str(path)]
    # A process of its own: lowering ahead of time puts descriptions in the place of arrays, which the shape
    # checks of this one refuse.
    command = [sys.executable, "-W", "error", "-m", "benchmarks.bench", *options]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    record = json.loads(path.read_text())
    (measurement,) = record["measurements"]
    assert record["config"]["dtype"] == "bfloat16"
    assert record["device"]["count"] == 8
    assert measurement["batch_shapes"]["frames"] == [8, 2, 1, 32, 32, 3]
    for name in ("inference", "train_step"):
        summary = measurement[name]
        assert 0 < summary["p10_seconds"] <= summary["median_seconds"] <= summary["p90_seconds"]
        assert summary["num_steps"] == 2
        assert summary["flops_per_step"] > 0
        assert summary["program_bytes"] > 0
    assert measurement["train_step"]["flops_per_step"] > 2 * measurement["inference"]["flops_per_step"]
    assert "train step" in output
