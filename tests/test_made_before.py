"""What an earlier state has written is read by this one: runs, models, data, indexes and exports."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import clipbert_jax
from clipbert_jax.renames import present_names
from clipbert_jax.training.metrics_writer import read_metrics
from data_pipelines.corpus.reader import open_corpus, videos_sha256
from data_pipelines.inputs import encode_texts, read_clips
from experiments.cli import main
from experiments.experiment import from_json
from experiments.runs.load_run import load_run
from experiments.runs.train_run import train_run

ARCHIVE = Path(__file__).parent / "made_before" / "made_before.tar.xz"
TEXTS = ["a red disc", "a ring"]
TOLERANCE = 1e-6
MODELS = ("run", "model", "pretraining")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made_before")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def outputs(made):
    with np.load(made / "outputs.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_what_it_said(name, made, outputs):
    model = clipbert_jax.load(made / name)
    frames = read_clips(made / "data" / "samples" / "test_00000.mp4", model.inputs, num_clips=2)
    ids, mask = encode_texts(TEXTS, model.inputs)
    np.testing.assert_array_equal(frames, outputs["frames"])
    np.testing.assert_array_equal(ids, outputs[f"{name}_ids"])
    np.testing.assert_array_equal(mask, outputs[f"{name}_mask"])
    said = model.predict(frames, ids, mask)
    np.testing.assert_allclose(said, outputs[f"{name}_says"], atol=TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_commands_load_the_parameters_that_the_library_loads(name, made):
    run, model = load_run(made / name), clipbert_jax.load(made / name)
    assert run.scorer.parameters.keys() == model.parameters.keys()
    for key, array in model.parameters.items():
        np.testing.assert_array_equal(run.scorer.parameters[key], array)


def test_settings_keep_their_meaning_under_new_names(made):
    run = load_run(made / "run").experiment
    rules = {run.data.sampling_rule, run.task.ranking_rule, run.optimizer.schedule_rule}
    assert rules == {"original"}
    pretraining = load_run(made / "pretraining").experiment
    assert pretraining.task.masking.mask_prob == 0.3


@pytest.mark.parametrize("name", ["run", "pretraining"])
def test_a_training_goes_on_to_the_same_losses(name, made, tmp_path):
    shutil.copytree(made / name, tmp_path / "run")
    before = {record["step"]: record["loss"] for record in read_metrics(made / name) if "loss" in record}
    first = min(int(path.name) for path in (made / name / "checkpoints").iterdir())
    for step in range(first + 1, 5):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step), ignore_errors=True)
    experiment = experiment_of(made / name)
    data = dataclasses.replace(experiment.data, data_dir=str(made / "data"))
    train_run(dataclasses.replace(experiment, data=data), tmp_path / "run", log=lambda line: None)
    after = {record["step"]: record["loss"] for record in read_metrics(tmp_path / "run") if "loss" in record}
    assert after.keys() == before.keys()
    for step, loss in before.items():
        assert after[step] == pytest.approx(loss, abs=1e-5)
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    assert len(starts) == 2


def experiment_of(workdir):
    values = json.loads((workdir / "config.json").read_text())
    del values["data_sha256"]
    return from_json(present_names(values), workdir / "config.json")


def test_data_are_read(made):
    corpus = open_corpus(made / "data")
    assert len(corpus) == 7
    for number in range(2):
        name = f"test_{number:05}"
        assert corpus.read(name).data == (made / "data" / "samples" / f"{name}.mp4").read_bytes()
    assert videos_sha256(made / "data") in (made / "data" / "videos.sha256").read_text()


def test_a_run_is_evaluated_as_it_was(made, tmp_path):
    main(
        [
            "evaluate",
            str(made / "run"),
            "--num-clips",
            "1",
            "2",
            "--data-dir",
            str(made / "data"),
            "--out",
            str(tmp_path),
        ]
    )
    before, after = (json.loads((folder / "results.json").read_text()) for folder in (made / "run", tmp_path))
    assert after["metrics"] == before["metrics"]


def test_an_index_is_found_and_nothing_is_encoded_again(made, outputs, capsys):
    folder = made / "data" / "samples"
    for line in next((folder / ".clipbert_index").glob("*/manifest.jsonl")).read_text().split("\n"):
        if line:  # an archive keeps times less exactly than a file system
            known = json.loads(line)
            os.utime(folder / known["name"], ns=(known["mtime_ns"], known["mtime_ns"]))
    texts = ["a red disc", "a blue square", TEXTS[1]]
    options = ["--num-clips", "2", "--num-workers", "0", "--json"]
    main(["search", str(made / "run"), str(folder), *texts, *options])
    printed = capsys.readouterr()
    assert "2 videos, nothing new" in printed.err
    before, after = json.loads((made / "search.json").read_text()), json.loads(printed.out)
    assert after["texts"][:2] == before["texts"]
    (hit,) = (hit for hit in after["texts"][2]["videos"] if hit["video"] == "test_00000.mp4")
    assert hit["probability"] == pytest.approx(outputs["run_says"][1], abs=TOLERANCE)


def test_an_export_runs_with_the_script_beside_it(made, outputs):
    spec = importlib.util.spec_from_file_location("exported_before", made / "export" / "run_exported.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.check_files(made / "export", json.loads((made / "export" / "config.json").read_text()))
    said = script.load(made / "export")(
        outputs["frames"][None], outputs["run_ids"][None, :1], outputs["run_mask"][None, :1]
    )
    np.testing.assert_allclose(said, outputs["export_says"], atol=TOLERANCE)
