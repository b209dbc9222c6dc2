from __future__ import annotations

import json
import pathlib

import pytest

from benchmarks import bench


def test_smoke_run_writes_times_rates_and_memory(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    path = bench.main(
        ["--smoke", "--dtype", "bfloat16", "--steps", "2", "--out", str(tmp_path / "bench.json")]
    )

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
    assert "train step" in capsys.readouterr().out
