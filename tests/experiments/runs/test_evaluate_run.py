"""Evaluation of each task's demo, end to end, and as other tasks."""

import json
import os
import shutil

import numpy as np
import pytest

from clipbert_jax.training.metrics_writer import read_metrics
from data_pipelines.annotations.records import Caption, SoftQuestion
from data_pipelines.annotations.store import records_path
from data_pipelines.corpus.reader import open_corpus
from experiments.cli import main
from experiments.runs import evaluate_run as evaluate_module
from tests.experiments.conftest import TASKS, fails

FACTORS = {
    "task", "split", "num_videos", "num_records", "workdir", "checkpoint_step", "data_dir", "sampling",
    "sampling_rule", "num_frames", "fps", "size", "consensus", "seed", "config", "versions", "device",
    "command", "date",
}  # fmt: skip
HEADLINE = {
    "retrieval": "text_to_video/r1",
    "multiple_choice": "accuracy",
    "open_ended_qa": "accuracy_in_vocabulary",
    "count": "mse",
    "image_qa": "accuracy/yes/no",
    "pretraining": "matching",
}


def evaluate(run, *options):
    main(["evaluate", str(run), *map(str, options)])


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_writes_results_and_predictions(task, run_of, tmp_path, capsys):
    counts = (1, 2) if task == "retrieval" else (2,)
    evaluate(run_of(task), "--num-clips", *counts, "--out", tmp_path)
    said = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    metrics, intervals, baseline = results["metrics"], results["intervals"], results["baseline"]
    assert metrics.keys() == intervals.keys() == set(map(str, counts))
    assert HEADLINE[task] in metrics["2"]
    assert HEADLINE[task] in said
    for count in metrics:
        assert metrics[count].keys() == intervals[count].keys() >= baseline.keys() > set()
        for name, (low, high) in intervals[count].items():
            assert low <= metrics[count][name] <= high
    factors = results["run"]
    assert factors.keys() >= FACTORS
    assert (factors["task"], factors["split"], factors["num_videos"]) == (task, "test", 6)
    for count in counts:
        predictions = read_lines(tmp_path / f"predictions-test-{count}-clips.jsonl")
        assert len(predictions) == factors["num_records"]
        assert all(prediction["video_id"].startswith("test_") for prediction in predictions)


def test_results_of_other_numbers_of_clips_are_kept(run_dir, tmp_path):
    evaluate(run_dir, "--num-clips", 1, 3, "--out", tmp_path, "--batch-size", 4)
    first = json.loads((tmp_path / "results.json").read_text())
    scores = np.load(tmp_path / "scores-test-3-clips.npz")
    assert scores["match_logits"].shape == (6, 6)
    caption_ids = scores["caption_ids"].tolist()
    described = scores["video_ids"][scores["video_of_caption"]].tolist()
    assert described == [caption_id.rsplit("_", 1)[0] for caption_id in caption_ids]

    evaluate(run_dir, "--num-clips", 2, "--out", tmp_path)
    merged = json.loads((tmp_path / "results.json").read_text())
    assert merged["metrics"].keys() == merged["intervals"].keys() == {"1", "2", "3"}
    for count in ("1", "3"):
        assert merged["metrics"][count] == first["metrics"][count]
        assert merged["intervals"][count] == first["intervals"][count]

    one = tmp_path / "one"
    one.mkdir()
    (one / "results.json").write_text("{broken")
    evaluate(run_dir, "--num-clips", 3, "--out", one, "--batch-size", 1)
    alone = np.load(one / "scores-test-3-clips.npz")
    np.testing.assert_allclose(alone["match_logits"], scores["match_logits"], rtol=1e-4, atol=1e-5)
    assert json.loads((one / "results.json").read_text())["metrics"]["3"] == first["metrics"]["3"]


@pytest.mark.parametrize("task", ["open_ended_qa", "pretraining"])
def test_validation_during_training_is_the_evaluation_of_its_checkpoint(task, run_of, tmp_path):
    evaluate(run_of(task), "--split", "validation", "--num-clips", 4, "--step", 2, "--out", tmp_path)
    found = json.loads((tmp_path / "results-validation.json").read_text())["metrics"]["4"]
    *_, record = read_metrics(run_of(task))
    in_training = {
        name.removeprefix("validation/"): value for name, value in record.items() if name != "step"
    }
    assert in_training == pytest.approx(found)


@pytest.mark.parametrize(
    ("trained", "task"), [("retrieval", "multiple_choice"), ("pretraining", "retrieval")]
)
def test_a_model_that_matches_texts_does_other_tasks(trained, task, run_of, data_dir, tmp_path):
    evaluate(run_of(trained), "--task", task, "--num-clips", 1, "--out", tmp_path, "--data-dir", data_dir)
    results = json.loads((tmp_path / f"results-{task}-test.json").read_text())
    assert results["run"]["task"] == task
    assert results["run"]["data_dir"] == str(data_dir)
    assert len(read_lines(tmp_path / f"predictions-{task}-test-1-clips.jsonl")) == 6
    assert not (tmp_path / "results.json").exists()


def test_a_task_that_the_head_cannot_do_is_refused(run_dir, tmp_path, capsys):
    said = fails(["evaluate", run_dir, "--task", "count", "--out", tmp_path / "out"], capsys)
    assert "--task count" in said
    assert not (tmp_path / "out").exists()


def test_withheld_answers_leave_a_submission(run_of, images_dir, tmp_path, capsys):
    folder = shutil.copytree(images_dir, tmp_path / "data")
    path = records_path(folder, SoftQuestion, "test")
    lines = [{**record, "answer_scores": {}} for record in read_lines(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluate(run_of("image_qa"), "--num-clips", 1, "--data-dir", folder, "--out", tmp_path)
    assert "the answers of this split are withheld" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"] == results["intervals"] == {"1": {}}
    submission = json.loads((tmp_path / "submission-test-1-clips.json").read_text())
    assert [answer["question_id"] for answer in submission] == [line["id"] for line in lines]


@pytest.fixture
def nothing_is_scored(monkeypatch):
    monkeypatch.setattr(evaluate_module, "score_split", lambda *args, **options: pytest.fail("it was scored"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "FILE/results"], "FILE/results cannot be written"),
        (["--data-dir", "nothere"], "no data directory nothere; make one with `clipbert prepare`"),
        (["--num-clips", 8, 100_000], "--num-clips must be"),
        (["--num-workers", -1], "--num-workers must be"),
    ],
)
def test_mistakes_are_said_before_scoring(options, message, run_dir, tmp_path, nothing_is_scored, capsys):
    file = tmp_path / "file"
    file.touch()
    options = [str(option).replace("FILE", str(file)) for option in options]
    assert message.replace("FILE", str(file)) in fails(["evaluate", run_dir, *options], capsys)


def test_a_damaged_data_directory_is_said_in_a_sentence(run_dir, data_dir, tmp_path, capsys):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    (path,) = folder.rglob("*.array_record*")
    os.truncate(path, 5000)
    said = fails(["evaluate", run_dir, "--data-dir", folder, "--out", tmp_path / "out"], capsys)
    assert f"its record in {path} cannot be read (" in said
    assert not (tmp_path / "out").exists()


def test_an_evaluation_on_what_was_trained_on_says_so(run_dir, data_dir, tmp_path, capsys):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    path = records_path(folder, Caption, "test")
    shutil.copy(path.with_name("train.jsonl"), path)
    evaluate(run_dir, "--num-clips", 1, "--data-dir", folder, "--out", tmp_path)
    assert f"{path} is the same as train.jsonl" in capsys.readouterr().out
    evaluate(run_dir, "--num-clips", 1, "--out", tmp_path / "other")
    assert "is the same as" not in capsys.readouterr().out


def test_predict_says_what_it_does_not_read(run_dir, data_dir, tmp_path, capsys):
    video = tmp_path / "video.mp4"
    video.write_bytes(open_corpus(data_dir).read("test_00000").data)
    command = ["predict", str(run_dir), str(video), "--num-clips", "1", "--json", "--texts", "a ball"]
    main(command)
    assert capsys.readouterr().err == ""
    long = "a ball " * 12
    main([*command, long, "a giraffe"])
    said = capsys.readouterr()
    assert f"the model reads 12 tokens, and not the end of: {long}\n" in said.err
    assert "the model has never seen: giraffe\n" in said.err
    assert len(json.loads(said.out)["texts"]) == 3
    assert "--num-clips must be" in fails([*command, "--num-clips", 65], capsys)
