"""Validation as part of a run: the best checkpoint is the one that is used."""

import dataclasses
import json
import math
import shutil

import jax.numpy as jnp
import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.training.validation import ValidationResult
from data_pipelines.annotations.records import SoftQuestion
from data_pipelines.annotations.store import read_records, records_path, write_records
from experiments.cli import main
from experiments.runs import train_run as runs
from experiments.runs.load_run import load_run
from experiments.runs.validate import make_validate
from tests.experiments.conftest import SMALL, fails


def test_a_run_is_used_at_its_best_checkpoint(data_dir, tmp_path, monkeypatch, capsys):
    results = iter(
        [ValidationResult(score=1.0, metrics={"r1": 1.0}), ValidationResult(score=0.5, metrics={})]
    )
    monkeypatch.setattr(runs, "make_validate", lambda experiment: lambda *_: next(results))
    run = tmp_path / "run"
    arguments = ["train", "demo/retrieval", "--data-dir", data_dir, "--workdir", run, *SMALL]
    main([*map(str, arguments), "--train.num-validations", "2", "--train.num-kept-checkpoints", "1"])
    assert [load_run(run, step=step).step for step in (None, "best", "newest", 2)] == [1, 1, 2, 2]
    main(["evaluate", str(run), "--num-clips", "1"])
    assert json.loads((run / "results.json").read_text())["run"]["checkpoint_step"] == 1
    said = fails(["evaluate", run, "--step", "7"], capsys)
    assert "holds no checkpoint of step 7; it has [1, 2]" in said


def test_a_model_that_broke_down_is_never_the_best(run_of):
    run = load_run(run_of("multiple_choice"))
    validate = make_validate(run.experiment)
    sound = validate(run.scorer.parameters, lambda: None)
    assert sound.score == sound.metrics["accuracy"]
    nothing = {name: jnp.full_like(array, math.nan) for name, array in run.scorer.parameters.items()}
    broken = validate(nothing, lambda: None)
    assert math.isnan(broken.score)
    assert broken.metrics.keys() == {"accuracy"}


def test_of_two_errors_the_smaller_is_better(run_of):
    run = load_run(run_of("count"))
    result = make_validate(run.experiment)(run.scorer.parameters, lambda: None)
    assert result.score == -result.metrics["mse"]


def test_withheld_answers_cannot_be_validated_on(run_of, images_dir, tmp_path):
    folder = shutil.copytree(images_dir, tmp_path / "data")
    questions = read_records(folder, SoftQuestion, "validation")
    withheld = [dataclasses.replace(question, answer_scores={}) for question in questions]
    write_records(records_path(folder, SoftQuestion, "validation"), withheld)
    experiment = load_run(run_of("image_qa")).experiment
    data = dataclasses.replace(experiment.data, data_dir=str(folder))
    with pytest.raises(UserError, match=r"validation.jsonl has no answers"):
        make_validate(dataclasses.replace(experiment, data=data))
