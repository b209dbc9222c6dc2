"""`clipbert runs`: what there is in a directory, and in what runs differ."""

import json
import os
import re

import pytest

from experiments.cli import main
from tests.experiments.conftest import fails
from tests.experiments.run_files import start, write, write_lines, write_run


@pytest.fixture
def folder(tmp_path):
    """Two runs and what is none."""
    folder = tmp_path / "runs"
    first = write_run(folder / "first", num_steps=20, starts=[start(how="done", ended="")])
    second = write_run(
        folder / "sweep" / "[second]",
        losses=(0.5, 0.125),
        train__seed=7,
        starts=[start(how="stopped", ended="")],
    )
    write_lines(second / "validations.jsonl", [{"step": 20, "score": 75.0}])
    for run, score in ((first, 10.0), (second, 30.0)):
        results = {"metrics": {"1": {"r1": 1.0}, "8": {"r1": score}}, "run": {}}
        write(run / "results.json", results)
    os.utime(first / "config.json", (0, 0))
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text('{"train"')
    (folder / "notes").mkdir()
    return folder


def test_runs_are_listed_and_the_rest_is_named(folder, capsys):
    main(["runs", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == [
        "run",
        "experiment",
        "step",
        "state",
        "last loss",
        "best validation",
        "last written",
    ]
    rows = {line.split()[0]: line.split() for line in lines[1:3]}
    assert rows["first"][1:5] == ["demo/retrieval", "20/20", "done", "0.25"]
    assert rows["sweep/[second]"][1:7] == ["demo/retrieval", "20/100", "stopped", "0.125", "score", "75"]
    assert lines[3].startswith(f"not a run: broken ({folder / 'broken' / 'config.json'} is not valid JSON")
    assert lines[4].startswith(f"not a run: notes ({folder / 'notes'} holds no run")
    assert len(lines) == 5
    assert "\x1b" not in "".join(lines)


def test_the_list_as_json(folder, capsys):
    main(["runs", str(folder), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert {run["name"]: run["state"] for run in said["runs"]} == {
        "first": "done",
        "sweep/[second]": "stopped",
    }
    second = next(run for run in said["runs"] if run["name"] != "first")
    assert second["best_validation"] == {"metric": "score", "value": 75.0}
    assert said["not_runs"].keys() == {"broken", "notes"}


def test_runs_are_compared_by_what_differs(folder, capsys):
    arguments = ["runs", str(folder), "--compare", "first", "sweep/[second]"]
    main([*arguments, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["config"] == {
        "train.num_steps": {"first": "20", "sweep/[second]": "100"},
        "train.seed": {"first": "0", "sweep/[second]": "7"},
    }
    assert said["numbers"]["loss"] == {"first": 0.25, "sweep/[second]": 0.125}
    assert said["numbers"]["results, 8 clips, r1"] == {"first": 10.0, "sweep/[second]": 30.0}
    assert said["numbers"]["best validation, score"] == {"sweep/[second]": 75.0}
    main(arguments)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train.seed", "0", "7"] in rows
    assert ["results,", "8", "clips,", "r1", "10", "30"] in rows


def test_what_cannot_be_listed_or_compared_is_said(folder, tmp_path, capsys):
    assert "does not exist" in fails(["runs", tmp_path / "nowhere"], capsys)
    assert "--compare" in fails(["runs", folder, "--compare", "first"], capsys)
    assert "holds no run" in fails(["runs", folder, "--compare", "first", "third"], capsys)
    main(["runs", str(folder / "notes")])
    assert "no runs in" in capsys.readouterr().out
