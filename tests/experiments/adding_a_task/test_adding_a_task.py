"""The walk of CONTRIBUTING.md through "Adding a task": one file, one config, and every command knows it."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.find_task import task_class
from experiments.cli import main
from experiments.runs.train_run import train_run
from tests.clipbert_jax.tasks.toy import make_batch, make_output
from tests.experiments.adding_a_task.demo_hinge_qa import demo_hinge_qa
from tests.experiments.adding_a_task.hinge_qa import HingeQA
from tests.experiments.commands.predicting import write_video


def test_the_losses_are_those_worked_out_by_hand():
    scores = np.array([2.0, 1.0, 0.0]).reshape(1, 1, 1, 3)
    batch = make_batch(np.array([[0]]))
    (loss,) = HingeQA(margin=1.5, num_answers=3).losses(make_output(scores), batch).values()
    np.testing.assert_allclose(loss, [[0.5]])
    assert HingeQA(num_answers=3).loss_weights(batch)["hinge"].tolist() == [[1.0]]
    lead = HingeQA(num_answers=3).probe_score(jnp.asarray(scores), 2, 3)
    np.testing.assert_allclose(lead, [[-2.0]])


def test_a_config_finds_the_task_by_its_name():
    assert task_class("hinge_qa") is HingeQA
    with pytest.raises(ValueError, match="no_such_task"):
        task_class("no_such_task")


def test_a_task_that_inherits_its_name_hides_no_other():
    type("StricterHingeQA", (HingeQA,), {})
    assert task_class("hinge_qa") is HingeQA


@pytest.fixture(scope="module")
def run_dir(data_dir, tmp_path_factory):
    demo, tiny = demo_hinge_qa(), ClipBertConfig.tiny()
    experiment = dataclasses.replace(
        demo,
        model=dataclasses.replace(
            tiny,
            pixel_encoder=dataclasses.replace(tiny.pixel_encoder, stage_blocks=(1,)),
            fusion=dataclasses.replace(
                tiny.fusion, num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32
            ),
        ),
        data=dataclasses.replace(demo.data, data_dir=str(data_dir), size=32, num_clips=2),
        train=dataclasses.replace(demo.train, num_steps=2, batch_size=8, num_validations=1),
    )
    workdir = tmp_path_factory.mktemp("runs") / "hinge_qa"
    train_run(experiment, workdir)
    return workdir


def test_it_trains_and_saves_its_config(run_dir):
    task = json.loads((run_dir / "config.json").read_text())["task"]
    assert (task["name"], task["margin"]) == ("hinge_qa", 0.5)


def test_it_evaluates(run_dir):
    main(["evaluate", str(run_dir), "--num-clips", "2"])
    results = json.loads((run_dir / "results.json").read_text())
    assert "accuracy" in results["metrics"]["2"]


@pytest.fixture
def video(data_dir, tmp_path):
    return write_video(data_dir, "test_00000", tmp_path / "video.mp4")


def test_it_predicts(run_dir, video, capsys):
    main(["predict", str(run_dir), str(video), "--texts", "what moves ?", "--json", "--num-clips", "2"])
    assert json.loads(capsys.readouterr().out)["texts"][0]["answers"]


def test_it_probes(run_dir, video, tmp_path):
    out = tmp_path / "page.html"
    main(["probe", str(run_dir), str(video), "--text", "what moves ?", "--out", str(out), "--num-clips", "2"])
    assert "How sure the model is that the answer is" in out.read_text()


def test_it_exports(run_dir, tmp_path):
    main(["export", str(run_dir), "--out", str(tmp_path / "out"), "--num-compared", "1"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["task"] == "hinge_qa"
