from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from benchmarks import child, compile_check
from benchmarks.compile_check import markdown
from clipbert_jax.training.sharding import MeshConfig

GOOD = {
    "target": "v5p:2x2x2",
    "workload": "retrieval training",
    "num_devices": 8,
    "batch_size": 128,
    "items_per_call": 128,
    "compile_seconds": 200.0,
    "flops": 32e12,
    "compiler_seconds": 0.128,
    "program_bytes": 20 << 30,
    "moved_bytes": int(2765e9 * 0.1),
    "collectives": {"all-reduce": 3},
    "num_fused_bias": 0,
    "num_fused_relu": 0,
    "num_fused_attention": 0,
    "copies": 7,
    "copied_bytes": 10**9,
}


def test_the_table_says_what_fits_and_how_fast():
    rows = [
        GOOD,
        GOOD | {"program_bytes": 100 << 30, "compiler_seconds": -3.0, "fsdp": 8, "tensor": 1},
        {
            "target": "v5e:2x4",
            "workload": "retrieval training",
            "problem": "RESOURCE_EXHAUSTED: 17.2G of 16G",
        },
    ]
    lines = markdown({"date": "2026-01-01", "programs": rows}).strip().splitlines()[-3:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][5:7] == ["yes", "2,000.0"]
    assert cells[0][8:12] == ["70 / 100", "128", "125", "3 all-reduce"]
    assert (cells[1][5], cells[1][9]) == ("no", "")  # and no estimate where the compiler has none
    assert (cells[2][5], cells[2][6]) == ("no", "RESOURCE_EXHAUSTED: 17.2G of 16G")
    assert [row[1] for row in cells] == ["", "fsdp 8", ""]


def test_a_program_that_does_not_compile_is_a_row(monkeypatch, tmp_path, capsys):
    calls = []

    def run(command, **options):
        calls.append((command, options["env"]))
        is_first = len(calls) == 1
        return subprocess.CompletedProcess(
            command, int(is_first), "" if is_first else json.dumps(GOOD), "Error: it broke\n"
        )

    monkeypatch.setattr(child.subprocess, "run", run)
    out = tmp_path / "compiled"
    compile_check.main(["--only", "v5p:2", "--python-tpu", sys.executable, "--out", str(out)])
    record = json.loads(out.with_suffix(".json").read_text())
    assert [row.get("problem") for row in record["programs"]] == ["Error: it broke", None]
    assert "it broke" in capsys.readouterr().out
    command, environment = calls[0]
    assert command[0] == sys.executable
    assert command[command.index("--batch-size") + 1] == "16"
    assert environment["JAX_PLATFORMS"] == "cpu"


def test_what_takes_too_long_is_a_row(monkeypatch):
    def run(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(child.subprocess, "run", run)
    options = argparse.Namespace(lowering="{}", timeout_minutes=1.0)
    row = compile_check.compile_in(sys.executable, "h100:8", "inference", MeshConfig(tensor=2), options)
    assert row["problem"] == "took too long"
    assert (row["fsdp"], row["tensor"]) == (1, 2)


def test_other_meshes_are_compiled_where_they_say_something(monkeypatch, tmp_path):
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, json.dumps(GOOD), "")

    monkeypatch.setattr(child.subprocess, "run", run)
    compile_check.main(["--only", "h100:8", "--python-cuda", sys.executable, "--out", str(tmp_path / "out")])
    said = [
        (c[c.index("--workload") + 1], c[c.index("--fsdp") + 1], c[c.index("--tensor") + 1]) for c in commands
    ]
    training = "retrieval training"
    assert said == [(training, "1", "1"), (training, "8", "1"), (training, "1", "2"), ("inference", "1", "1")]


def test_unknown_targets_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        compile_check.main(["--only", "nothing", "--out", str(tmp_path / "out")])
    assert exit_.value.code == 2
    assert "there are targets h100:1, " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
