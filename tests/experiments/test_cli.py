"""The commands end to end on a small corpus, and what they say to a user's mistakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipbert_jax.training.metrics_writer import read_metrics
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion
from data_pipelines.annotations.store import answers_path, records_path
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.cli import main
from experiments.configs import EXPERIMENTS
from experiments.runs import train_run as runs
from experiments.runs.starts import read_starts
from tests.xla_flags import COMPILE_FAST

from .conftest import OF_IMAGES, SMALL, fails

ROOT = Path(__file__).parents[2]


@pytest.fixture
def video(data_dir, tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(open_corpus(data_dir).read("test_00000").data)
    return path


def test_training_writes_a_run(run_dir, data_dir):
    config = json.loads((run_dir / "config.json").read_text())
    assert config["data"]["data_dir"] == str(data_dir)
    assert config["train"]["num_steps"] == 2
    *steps, validation = read_metrics(run_dir)
    assert [record["step"] for record in steps] == [1, 2]
    assert {"loss", "grad_norm", "videos_per_second", "input_wait_share"} <= steps[0].keys()
    assert validation["step"] == 2
    assert 0 <= validation["validation/text_to_video/r1"] <= 100
    assert (run_dir / "checkpoints" / "2").is_dir()
    assert (run_dir / "vocab.txt").read_text() == (data_dir / "vocab.txt").read_text()


def test_prediction_names_the_clip(run_dir, video, capsys):
    texts = ["a ball, a sun and a moon", "a star"]
    main(["predict", str(run_dir), str(video), "--num-clips", "4", "--json", "--texts", *texts])
    said = json.loads(capsys.readouterr().out)
    assert [text["text"] for text in said["texts"]] != []
    assert sorted(text["text"] for text in said["texts"]) == sorted(texts)
    for text in said["texts"]:
        assert 0 <= text["probability"] <= 1
        assert len(text["clip_probabilities"]) == 4
        assert text["best_clip_seconds"] == said["clip_seconds"][text["best_clip"]]
    main(["predict", str(run_dir), str(video), "--texts", *texts])
    assert f"{said['texts'][0]['text']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("--train.num-step", "--train.num-steps"),
        ("--num-steps", "--train.num-steps"),
        ("--data.clips", "--data.num-clips"),
        ("--learning-rate", "--optimizer.transformer-learning-rate"),
        ("--profil", "--profile"),
    ],
)
def test_a_misspelt_option_is_refused_with_a_suggestion(misspelt, meant, tmp_path, capsys):
    said = fails(["train", "demo/retrieval", "--workdir", tmp_path / "x", misspelt, "3"], capsys)
    assert re.search(rf"Perhaps you meant:.*{meant}\b", said, re.DOTALL)
    assert "tgif" not in said, "other experiments have nothing to do with it"
    assert not (tmp_path / "x").exists()


def test_a_misspelt_experiment_is_refused_with_a_suggestion(tmp_path, capsys):
    said = fails(["train", "demo/retreival", "--workdir", tmp_path / "x"], capsys)
    assert "did you mean demo/retrieval?" in said
    said = fails(["train", "--workdir", tmp_path / "x", "demo/retreival"], capsys)
    assert "did you mean demo/retrieval?" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data-dir", "nowhere"], "no data directory nowhere"),
        (["--train.batch-size", "12"], "--train.batch-size 12 does not divide"),
        (["--model.fusion.vocab-size", "10"], "--model.fusion.vocab-size"),
        (["--data.max-text-length", "100"], "--data.max-text-length is 100"),
        (["--train.num-steps", "-1"], "--train.num-steps"),
        (["--train.num-steps", "0"], "give --train.num-steps or --train.num-epochs"),
        (["--train.num-epochs", "2"], "set --train.num-steps 0 to let epochs decide"),
        (["--train.seed", "-1"], "--train.seed"),
        (["--train.num-epochs", "-1"], "--train.num-epochs"),
        (["--train.num-epochs", "nan"], "--train.num-epochs"),
        (["--train.num-validations", "-1"], "--train.num-validations"),
        (["--train.num-validation-clips", "0"], "--train.num-validation-clips"),
        (["--train.early-stop-validations", "2"], "give --train.num-validations too"),
        (["--train.clips-per-pass", "-1"], "--train.clips-per-pass"),
        (["--train.clips-per-pass", "3"], "--train.clips-per-pass 3 must divide --data.num-clips 4"),
        (["--train.ema-decay", "1"], "--train.ema-decay"),
        (["--data.num-workers", "-1"], "--data.num-workers"),
        (["--model.fusion.num-heads", "0"], "the model cannot be built"),
        (["--data.fps", "0"], "--data.fps"),
        (["--data.fps", "20000"], "--data.fps"),
        (["--data.decode-timeout-seconds", "0"], "--data.decode-timeout-seconds"),
        (["--data.max-text-length", "1"], "--data.max-text-length"),
        (["--data.size", "15"], "--data.size"),
        (["--data.size", "448"], "fusion.max_grid_rows"),
        (["--model.fusion.num-heads", "7"], "7"),
        (["--model.compute-dtype", "float64"], "JAX_ENABLE_X64"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    options, expected, data_dir, tmp_path, capsys
):
    arguments = ["train", "demo/retrieval", "--workdir", tmp_path / "x", "--data-dir", data_dir, *options]
    assert expected in fails(arguments, capsys)
    assert not (tmp_path / "x").exists()


def test_a_run_directory_of_another_config_is_refused(run_dir, data_dir, capsys):
    arguments = ["train", "demo/retrieval", "--data-dir", data_dir, "--workdir", run_dir, *SMALL]
    arguments += ["--train.num-validations", "1"]
    said = fails([*arguments, "--train.seed", "7", "--model.fusion.num-layers", "2"], capsys)
    assert "train.seed: 0 there, 7 now" in said
    assert "model.fusion.num_layers: 1 there, 2 now" in said


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(run_dir, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    config = json.loads((other / "config.json").read_text())
    config["model"]["fusion"]["num_layers"] = 2
    (other / "config.json").write_text(json.dumps(config))
    said = fails(["evaluate", other], capsys)
    assert "is not the config that checkpoint 2 was trained with" in said
    assert "model.fusion.num_layers: 1 there, 2 now" in said
    assert not (other / "results.json").exists()


def test_a_run_of_eight_devices_is_used_on_one(run_dir, video):
    environment = {**os.environ, "XLA_FLAGS": COMPILE_FAST}
    command = [sys.executable, "-m", "experiments.cli", "predict", str(run_dir), str(video)]
    done = subprocess.run(
        [*command, "--num-clips", "1", "--json", "--texts", "a ball"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["texts"][0]["text"] == "a ball"


def test_other_data_under_the_same_settings_are_refused(run_dir, tmp_path, capsys):
    other = prepare_synthetic_videos(
        tmp_path / "other", num_train=8, num_validation=3, num_test=6, seed=1, num_workers=0
    )
    vocabulary = (run_dir / "vocab.txt").read_text()
    said = fails(["train", "demo/retrieval", "--data-dir", other, "--workdir", run_dir, *SMALL], capsys)
    assert "data_sha256" in said
    assert (run_dir / "vocab.txt").read_text() == vocabulary


def test_a_tokenizer_folder_is_taken_along(data_dir, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(data_dir / "vocab.txt", tokenizer)
    (tokenizer / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    arguments = ["train", "demo/retrieval", "--data-dir", data_dir, "--workdir", tmp_path / "run"]
    main([str(a) for a in [*arguments, "--data.vocab", tokenizer, *SMALL, "--train.num-steps", "1"]])
    assert json.loads((tmp_path / "run" / "tokenizer_config.json").read_text())["do_lower_case"] is False


def test_an_interrupted_run_is_saved_and_goes_on(data_dir, tmp_path):
    arguments = ["train", "demo/retrieval", "--data-dir", data_dir, "--workdir", tmp_path / "run", *SMALL]
    command = [sys.executable, "-m", "experiments.cli", *map(str, arguments), "--train.num-steps", "10000"]
    environment = {**os.environ, "XLA_FLAGS": COMPILE_FAST, "PYTHONUNBUFFERED": "1"}
    for beginning in ("training in", "continuing from step"):
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            lines = [next(process.stdout) for _ in range(6)]
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
        assert process.returncode == 130
        assert "Traceback" not in rest
        stopped = re.search(r"stopped at step (\d+) of 10000 and saved", rest)
        assert (tmp_path / "run" / "checkpoints" / stopped[1]).is_dir()
        assert any(line.startswith(beginning) for line in lines)
    starts = read_starts(tmp_path / "run")
    assert [start["how"] for start in starts] == ["stopped", "stopped"]
    assert all("train demo/retrieval" in start["command"] for start in starts)
    assert all(start["num_processes"] == 1 and start["date"] <= start["ended"] for start in starts)


def test_help_is_for_users(capsys):
    for command in (["train"], ["train", "demo/retrieval"], ["evaluate"], ["predict"], ["prepare", "folder"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        assert "type: ignore" not in capsys.readouterr().out


def test_a_misspelt_command_is_said_with_the_nearest(capsys):
    assert "'serach': did you mean search?" in fails(["serach", "run", "folder"], capsys)
    assert "'zzz': choose one of prepare, train," in fails(["zzz"], capsys)


def test_help_of_all_commands_has_each_in_its_first_sentence(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "• search            Find videos in a folder by text" in said
    assert "• doctor " in said


def test_help_of_an_experiment_is_in_groups_one_below_the_other(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["train", "--workdir", "demo/count", "demo/retrieval", "--help"])
    said = capsys.readouterr().out
    assert os.environ["COLUMNS"] == "200"
    assert said.startswith("usage: clipbert train demo/retrieval ")
    assert said.split("\n\n")[1].startswith("Text-to-video retrieval")
    titles = re.findall(r"^[╭─ ]*([a-z.-]+) options[ ─╮]*$", said, re.MULTILINE)
    expected = ["model", "model.pixel-encoder", "model.fusion", "task", "data", "optimizer", "train"]
    assert titles[: len(expected)] == expected
    assert {"init", "logging", "profile"} < set(titles)


def test_help_without_an_experiment_lists_them_all(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in EXPERIMENTS)


def test_a_trace_is_taken_on_request(data_dir, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["train", "demo/retrieval", "--data-dir", str(data_dir), "--workdir", str(run), *SMALL]
    assert "--profile.num-steps must be" in fails([*arguments, "--profile.num-steps", "0"], capsys)
    main([*arguments, "--profile.first-step", "2", "--profile.num-steps", "1"])
    assert list(run.glob("profile/plugins/profile/*/*.xplane.pb"))
    assert f"profile of steps 2 to 2 in {run / 'profile'}" in capsys.readouterr().out
    assert "profile" not in (run / "config.json").read_text()


def test_weights_and_biases_is_an_extra_that_a_run_may_take_up_later(
    run_dir, data_dir, tmp_path, capsys, monkeypatch
):
    wandb = ["--logging.wandb", "videos"]
    arguments = [
        "train",
        "demo/retrieval",
        "--data-dir",
        str(data_dir),
        "--train.num-validations",
        "1",
        *SMALL,
    ]
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = fails([*arguments, *wandb, "--workdir", str(tmp_path / "x")], capsys)
    assert "pip install 'clipbert_jax[wandb]'" in said
    assert not (tmp_path / "x").exists()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=None))
    main([*arguments, *wandb, "--workdir", str(run_dir)])
    assert "nothing to do" in capsys.readouterr().out


def test_preparing_shows_how_far_it_is(tmp_path, capsys):
    options = ["--num-train", "2", "--num-validation", "1", "--num-test", "1", "--num-workers", "0"]
    main(["prepare", "demo", "--data-dir", str(tmp_path / "demo"), *options])
    assert "4 videos in" in capsys.readouterr().out


def test_bad_videos_are_refused_by_name(run_dir, tmp_path, capsys):
    text = tmp_path / "notes.mp4"
    text.write_text("this is a text")
    assert "is a directory" in fails(["predict", run_dir, tmp_path, "--texts", "a ball"], capsys)
    assert "notes.mp4" in fails(["predict", run_dir, text, "--texts", "a ball"], capsys)
    missing = fails(["predict", run_dir, tmp_path / "missing.mp4", "--texts", "a ball"], capsys)
    assert "missing.mp4" in missing


def test_bad_runs_splits_and_counts_are_refused(run_dir, video, tmp_path, capsys):
    assert "holds no run" in fails(["evaluate", tmp_path], capsys)
    assert "no checkpoint of step 7" in fails(["evaluate", run_dir, "--step", "7"], capsys)
    assert "--num-clips" in fails(["evaluate", run_dir, "--num-clips", "0"], capsys)
    assert "--texts" in fails(["predict", run_dir, video, "--texts", " "], capsys)
    assert not list(Path(run_dir).glob("scores-*"))


def test_prepare_refuses_bad_folders(tmp_path, capsys):
    captions = tmp_path / "captions.csv"
    captions.write_text("video,caption\na.mp4,hello\n")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"

    def prepare(videos):
        return ["prepare", "folder", "--videos", videos, "--annotations", captions, "--data-dir", out]

    assert "no_such" in fails(prepare(tmp_path / "no_such"), capsys)
    assert "empty" in fails(prepare(tmp_path / "empty"), capsys)
    (tmp_path / "empty" / "a.mp4").write_text("not a video")
    assert "a.mp4" in fails(prepare(tmp_path / "empty"), capsys)
    captions.write_text("file,text\na.mp4,hello\n")
    assert "captions.csv lacks video and caption" in fails(prepare(tmp_path / "empty"), capsys)
    assert not out.exists()


def test_prepare_demo_does_not_overwrite(data_dir, capsys):
    said = fails(["prepare", "demo", "--data-dir", data_dir], capsys)
    assert str(data_dir) in said
    assert "overwrite" in said


def other_answers(folder):
    answers_path(folder, OpenQuestion).write_text('["a comet"]')


def no_answers(folder):
    answers_path(folder, OpenQuestion).unlink()


def no_options(folder):
    replace_in_first_line(records_path(folder, MultipleChoice, "train"), options=[])


def empty_caption(folder):
    replace_in_first_line(records_path(folder, Caption, "train"), text=" ")


def high_count(folder):
    replace_in_first_line(records_path(folder, Count, "train"), id="many", count=7)


def no_validation(folder):
    records_path(folder, Caption, "validation").unlink()


def replace_in_first_line(path, **values):
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), **values}), *rest]))


@pytest.mark.parametrize(
    ("task", "spoil", "expected"),
    [
        (
            "open_ended_qa",
            other_answers,
            r"none of the 8 answers in .*train\.jsonl, '\w+' first, is in .*answers",
        ),
        ("open_ended_qa", no_answers, r"no answer vocabulary at .*answers\.json; use `clipbert prepare`"),
        ("multiple_choice", no_options, r"train\.jsonl line 1 is a bad multiple choice: options must be two"),
        ("retrieval", empty_caption, r"train\.jsonl line 1 is a bad caption: text is empty; correct it"),
        (
            "count",
            high_count,
            r"question 'many' in .*train\.jsonl has the count 7, out of .*--task\.max-count 3",
        ),
        ("retrieval", no_validation, r"no captions for split 'validation'.*--train\.num-validations 0"),
    ],
)
def test_bad_records_are_refused_in_a_sentence(task, spoil, expected, data_dir, images_dir, tmp_path, capsys):
    folder = shutil.copytree(images_dir if task in OF_IMAGES else data_dir, tmp_path / "data")
    spoil(folder)
    arguments = ["train", f"demo/{task}", "--data-dir", folder, "--workdir", tmp_path / "run"]
    said = fails([*arguments, "--train.num-validations", "1"], capsys)
    assert re.fullmatch(rf"clipbert: .*{expected}.*\n", said)
    assert not (tmp_path / "run").exists()


def test_a_very_long_caption_is_cut_and_said(data_dir, tmp_path, capsys):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    path = records_path(folder, Caption, "train")
    replace_in_first_line(path, text="a ball " * 1000)
    count = len(path.read_text().splitlines())
    main(["train", "demo/retrieval", "--data-dir", str(folder), "--workdir", str(tmp_path / "run"), *SMALL])
    said = capsys.readouterr().out
    assert f"1 of {count} texts have more than --data.max-text-length 12 tokens and lose their end" in said
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()


@pytest.mark.parametrize(("num_epochs", "num_steps"), [(1.0, 1), (2.5, 3), (0.001, 1)])
def test_epochs_become_steps(num_epochs, num_steps, data_dir, tmp_path, monkeypatch):
    """Of 8 questions."""
    monkeypatch.setattr(runs, "train", lambda *args, **options: None)
    write = ["--data-dir", str(data_dir), "--workdir", str(tmp_path / "run"), "--train.batch-size", "8"]
    main(
        [
            "train",
            "demo/multiple_choice",
            *write,
            "--train.num-steps",
            "0",
            "--train.num-epochs",
            str(num_epochs),
        ]
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert (config["num_steps"], config["num_epochs"]) == (num_steps, num_epochs)
