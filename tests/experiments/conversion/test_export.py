"""`clipbert export`: what it writes runs without the package, and says what the package says."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import types

import jax
import jax.export
import numpy as np
import pytest

from clipbert_jax.prediction import match_entries, predict_clips
from data_pipelines.video_batches import video_batches
from experiments.cli import main
from experiments.conversion import export as export_module
from experiments.conversion import export_inputs, run_exported
from experiments.evaluators.make_evaluator import make_evaluator
from experiments.evaluators.score_split import score_split
from experiments.runs.load_run import load_run
from tests.experiments.conftest import OF_IMAGES, fails
from tests.experiments.untrained import untrained_run

TEXTS = ["a ball, a sun and a moon", "a star", "a leaf and a drop"]
ALONE = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("clipbert_jax", "data_pipelines", "experiments", "flax", "transformers"):
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Refuse())
script = sys.argv[1]
sys.argv = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


def export(run_dir, out, *options):
    main(["export", str(run_dir), "--out", str(out), "--num-clips", "4", *map(str, options)])
    return json.loads((out / "config.json").read_text())


def run_alone(folder, *arguments, cwd):
    """Run the script of an export where neither this package nor what it is made with can be imported."""
    command = [sys.executable, "-I", "-c", ALONE, str(folder / "run_exported.py"), *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def retrieval(run_of):
    """A run, inputs of a call, and the probabilities that the package gives for them."""
    run = load_run(run_of("retrieval"))
    ids, mask = run.encode_texts(TEXTS)
    (batch,) = video_batches(run.experiment.data, ["test_00000", "test_00001"], batch_size=2, num_clips=[4])
    matches = [
        match_entries(predict_clips(run.scorer, run.experiment.task, frames, ids, mask), TEXTS)
        for frames in batch.frames
    ]
    inputs = {"frames": batch.frames, "text_ids": np.stack([ids] * 2), "text_mask": np.stack([mask] * 2)}
    expected = [[match["probability"] for match in of_video] for of_video in matches]
    return types.SimpleNamespace(dir=run.workdir, inputs=inputs, expected=np.array(expected))


@pytest.fixture(scope="module")
def exported(retrieval, tmp_path_factory):
    """A float32 export of the run, with what its config says."""
    out = tmp_path_factory.mktemp("export") / "float32"
    config = export(retrieval.dir, out, "--batch-size", 2, "--num-texts", 3)
    return types.SimpleNamespace(dir=out, config=config)


def test_an_export_runs_alone_and_says_what_the_package_says(exported, retrieval, tmp_path):
    np.savez(tmp_path / "inputs.npz", **retrieval.inputs)
    process = run_alone(exported.dir, tmp_path / "inputs.npz", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    found = np.array(json.loads(process.stdout))
    assert np.ptp(retrieval.expected) > 1e-4
    np.testing.assert_allclose(found, retrieval.expected, atol=1e-5)


def test_an_export_checks_itself_on_another_machine(exported, tmp_path):
    process = run_alone(exported.dir, cwd=tmp_path)
    difference = re.search(r"differs from cpu by (\S+) at most", process.stdout)
    assert difference, process.stderr
    assert float(difference[1]) < 1e-5


def test_the_script_names_what_is_wrong_with_inputs_and_weights(exported, retrieval, tmp_path, monkeypatch):
    wanted = exported.config["inputs"]
    np.savez(tmp_path / "few.npz", frames=retrieval.inputs["frames"])
    with pytest.raises(SystemExit, match=r"few.npz lacks text_ids: int32 \(2, 3, 12\), texts of each video"):
        run_exported.read_inputs(tmp_path / "few.npz", wanted)
    np.savez(tmp_path / "wide.npz", **{**retrieval.inputs, "text_ids": np.zeros((2, 3, 12), np.int64)})
    with pytest.raises(SystemExit, match=r"text_ids is int64 \(2, 3, 12\), not int32 \(2, 3, 12\)"):
        run_exported.read_inputs(tmp_path / "wide.npz", wanted)
    run_exported.check_files(exported.dir, exported.config)
    for name in ("model.stablehlo", "weights.safetensors"):
        folder = shutil.copytree(exported.dir, tmp_path / f"spoilt {name}")
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(SystemExit, match=f"{name} has changed since the export"):
            run_exported.check_files(folder, exported.config)
        (folder / name).unlink()
        with pytest.raises(SystemExit, match=f"{name} is missing"):
            run_exported.check_files(folder, exported.config)


def test_the_config_says_what_a_program_needs_to_know(exported, retrieval, data_dir):
    config = exported.config
    shapes = {wanted["name"]: (tuple(wanted["shape"]), wanted["dtype"]) for wanted in config["inputs"]}
    assert shapes == {name: (array.shape, str(array.dtype)) for name, array in retrieval.inputs.items()}
    assert config["output"]["shape"] == [2, 3]
    assert config["output"]["axes"] == "b n"
    assert config["task"] == "retrieval"
    assert config["consensus"] == "mean"
    assert config["frames"]["size"] == 32
    assert (config["clips"]["num_clips"], config["clips"]["num_frames"], config["clips"]["fps"]) == (
        4,
        1,
        2.0,
    )
    assert config["texts"]["max_length"] == 12
    assert config["texts"]["vocab_size"] == len((exported.dir / "vocab.txt").read_text().splitlines())
    assert config["source"] == {"run": str(retrieval.dir), "step": 2, "parameters": "as trained"}
    assert config["platforms"] == ["cpu"]
    assert config["exported"]["versions"]["jax"] == jax.__version__
    for name, digest in config["sha256"].items():
        assert hashlib.sha256((exported.dir / name).read_bytes()).hexdigest() == digest
        assert config["megabytes"][name] == (exported.dir / name).stat().st_size / 1e6
    assert set(config["sha256"]) == {"model.stablehlo", "weights.safetensors"}
    assert set(config["seconds"]) == {"export", "compile_and_first_call", "call"}
    agreement = config["agreement"]
    assert agreement["inputs"] == f"3 videos of the validation split of {data_dir}"
    assert (agreement["num_videos"], agreement["num_texts"]) == (3, 9)
    assert agreement["max_difference"] < 1e-5
    assert (agreement["same_decisions"], agreement["same_order"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        (["--dtype", "bfloat16"], 0.02),
        (["--weights", "int8"], 0.02),
    ],
)
def test_smaller_weights_stay_close_and_the_difference_is_written_down(
    options, tolerance, exported, retrieval, tmp_path, capsys
):
    config = export(retrieval.dir, tmp_path / "out", "--batch-size", 2, "--num-texts", 3, *options)
    found = run_exported.load(tmp_path / "out")(*retrieval.inputs.values())
    difference = np.abs(found - retrieval.expected).max()
    assert 1e-7 < difference < tolerance
    assert 1e-7 < config["agreement"]["mean_difference"] <= config["agreement"]["max_difference"] < tolerance
    weights = "weights.safetensors"
    assert config["megabytes"][weights] < 0.8 * exported.config["megabytes"][weights]
    assert re.search(r"probabilities differ by at most \S+, on average by \S+; \d", capsys.readouterr().out)


def test_a_program_for_several_platforms_runs_here(retrieval, tmp_path):
    options = ["--batch-size", 2, "--num-texts", 3, "--platforms", "tpu", "cuda", "cpu"]
    config = export(retrieval.dir, tmp_path / "out", *options)
    assert config["platforms"] == ["tpu", "cuda", "cpu"]
    assert config["agreement"]["of"] == "the exported program"
    program = jax.export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    assert program.platforms == ("tpu", "cuda", "cpu")
    assert "custom_call" not in program.mlir_module()
    found = run_exported.load(tmp_path / "out")(*retrieval.inputs.values())
    np.testing.assert_allclose(found, retrieval.expected, atol=1e-5)


def test_a_program_for_another_platform_is_not_run_here(retrieval, tmp_path):
    config = export(retrieval.dir, tmp_path / "out", "--platforms", "tpu")
    assert config["platforms"] == ["tpu"]
    assert config["agreement"]["of"] == "the same arithmetic compiled for cpu"
    with pytest.raises(ValueError, match="platform"):
        run_exported.load(tmp_path / "out")(*run_exported.made_up_inputs(config["inputs"], 50))


TRUTH = {
    "open_ended_qa": lambda reduced: reduced["probabilities"],
    "image_qa": lambda reduced: reduced["probabilities"],
    "multiple_choice": lambda reduced: np.asarray(jax.nn.softmax(reduced["logits"])),
    "count": lambda reduced: reduced["counts"][:, None],
    "pretraining": lambda reduced: np.asarray(jax.nn.sigmoid(reduced["logits"])),
}
"""Task -> what its evaluator keeps, as the export says it: [questions, answers or options]."""


@pytest.mark.parametrize(
    "task",
    [
        "open_ended_qa",
        "multiple_choice",
        *(pytest.param(task, marks=pytest.mark.slow) for task in ("image_qa", "count", "pretraining")),
    ],
)
def test_other_tasks_predict_what_their_evaluators_do(task, data_dir, images_dir, tmp_path, monkeypatch):
    source = str(images_dir if task in OF_IMAGES else data_dir)
    run = untrained_run(task, source)
    monkeypatch.setattr(export_module, "load_run", lambda workdir, step: run)
    config = export(run.workdir, tmp_path / "out", "--num-compared", 1)
    assert config["task"] == task
    name = "retrieval" if task == "pretraining" else task
    evaluator = make_evaluator(name, run.experiment.task, source, "test", run.text_options)
    reduced = score_split(
        evaluator, run.scorer, run.experiment.data, what="", num_clips=[4], batch_size=8, texts_per_call=64
    )[4]
    predict = run_exported.load(tmp_path / "out")
    video = evaluator.video_ids[0]
    (batch,) = video_batches(
        run.experiment.data, [video], batch_size=1, num_clips=[4], one_clip=evaluator.one_clip
    )
    records = evaluator.records
    row = next(row for row, record in enumerate(records) if record.video_id == video)
    texts = list(evaluator.all_texts())
    num_texts = config["inputs"][1]["shape"][1]
    assert num_texts == (len(records[row].options) if task == "multiple_choice" else 1)
    ids, mask = run.encode_texts(texts[row * num_texts : (row + 1) * num_texts])
    found = predict(batch.frames, ids[None], mask[None])[0]
    expected = TRUTH[task](reduced)[row]
    if run.answers:
        assert found.shape == (1, len(run.answers))
        assert json.loads((tmp_path / "out" / "answers.json").read_text()) == list(run.answers)
        found = found[:, reduced["answers"][row]]
    expected = expected[[row]] if task == "pretraining" else expected
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)
    assert not (tmp_path / "out" / "answers.json").exists() or run.answers


def test_without_data_inputs_are_random_and_it_is_said(retrieval, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_inputs, "find_records", lambda task, data_dir: ("", []))
    config = export(retrieval.dir, tmp_path / "out", "--num-compared", 2)
    assert config["agreement"]["inputs"].startswith("2 videos of random pixels and random words")
    assert config["agreement"]["num_videos"] == 2
    assert "random pixels" in capsys.readouterr().out


def test_only_an_export_is_overwritten_and_nothing_of_it_stays(exported, retrieval, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(exported.dir, out)
    (out / "answers.json").write_text("of another task")
    (out / "notes.txt").write_text("mine")
    arguments = ["export", retrieval.dir, "--out", out]
    assert f"--out {out} is not empty" in fails(arguments, capsys)
    assert (out / "answers.json").exists()
    export(retrieval.dir, out, "--num-compared", 1, "--overwrite")
    assert not (out / "answers.json").exists()
    assert (out / "notes.txt").read_text() == "mine"
    before = (retrieval.dir / "config.json").read_text()
    said = fails(["export", retrieval.dir, "--out", retrieval.dir, "--overwrite"], capsys)
    assert "holds something other than an export" in said
    assert (retrieval.dir / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--batch-size", ["0"]),
        ("--num-clips", ["65"]),
        ("--num-texts", ["0"]),
        ("--num-compared", ["0"]),
        ("--platforms", ["cpu", "gpu"]),
        ("--data-dir", ["nowhere"]),
        ("--step", ["7"]),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(option, values, run_dir, tmp_path, capsys):
    said = fails(["export", run_dir, "--out", tmp_path / "out", option, *values], capsys)
    assert option.removeprefix("--") in said
    assert values[-1] in said
    assert not (tmp_path / "out").exists()


def test_bad_runs_and_places_are_refused(run_dir, tmp_path, capsys):
    said = fails(["export", tmp_path / "nothing", "--out", tmp_path / "out"], capsys)
    assert str(tmp_path / "nothing") in said
    (tmp_path / "file").write_text("")
    said = fails(["export", run_dir, "--out", tmp_path / "file"], capsys)
    assert "is a file: give a directory" in said


def test_options_of_a_question_must_be_several(data_dir, tmp_path, monkeypatch, capsys):
    run = untrained_run("multiple_choice", data_dir)
    monkeypatch.setattr(export_module, "load_run", lambda workdir, step: run)
    said = fails(["export", "run", "--out", tmp_path / "out", "--num-texts", "1"], capsys)
    assert "--num-texts" in said
