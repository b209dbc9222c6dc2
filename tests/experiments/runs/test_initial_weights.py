"""First weights from another run: what is taken, what starts anew, what is refused, and when it happens."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import clipbert_jax
from clipbert_jax.errors import UserError
from clipbert_jax.pretrained.registry import register
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.weights.flat import flat_parameters
from clipbert_jax.weights.formats.torch_writer import write_torch_file
from clipbert_jax.weights.names.original_names import to_original
from experiments.cli import main
from experiments.runs import train_run as runs
from experiments.runs.initial_weights import start_from, start_from_file
from experiments.runs.load_run import load_run
from experiments.runs.train_run import make_model
from tests.experiments.conftest import SMALL, fails

HIDDEN = ["head/hidden/bias", "head/hidden/kernel"]
OUTPUT = ["head/output/bias", "head/output/kernel"]
REGRESSION = [
    f"head/regression_{name}"
    for name in ("hidden/bias", "hidden/kernel", "norm/bias", "norm/mean", "norm/scale", "norm/variance")
]
REGRESSION += ["head/regression_output/bias", "head/regression_output/kernel"]


@pytest.fixture(scope="module")
def source(run_of):
    return load_run(run_of("retrieval"))


def model_of(source, **changes):
    """Return the model of an experiment like that of the source, but for another seed and the changes."""
    experiment = source.experiment
    train = dataclasses.replace(experiment.train, seed=1)
    return make_model(dataclasses.replace(experiment, train=train, **changes))


@pytest.mark.parametrize(
    ("task", "new", "unused"),
    [
        (None, [], []),
        (MultipleChoiceQA(), OUTPUT, OUTPUT),
        (CountQA(), REGRESSION, HIDDEN + OUTPUT),
    ],
)
def test_all_but_a_head_of_another_kind_is_taken(source, task, new, unused):
    model = model_of(source, task=task or source.experiment.task)
    drawn = flat_parameters(model)
    lines = start_from(model, source.scorer.parameters, source.workdir)
    for name, array in flat_parameters(model).items():
        expected = drawn[name] if name in new else source.scorer.parameters[name]
        np.testing.assert_array_equal(array, expected)
    said = {
        f"first weights from {source.workdir}",
        *([f"drawn anew, as {source.workdir} has none that fit: {', '.join(new)}"] if new else []),
        *([f"not used of {source.workdir}: {', '.join(unused)}"] if unused else []),
    }
    assert set(lines) == said


def test_a_head_for_other_answers_starts_anew_even_if_it_fits(source):
    model = model_of(source)
    drawn = flat_parameters(model)
    lines = start_from(model, source.scorer.parameters, source.workdir, is_same_head=False)
    for name, array in flat_parameters(model).items():
        expected = drawn[name] if name.startswith("head/") else source.scorer.parameters[name]
        np.testing.assert_array_equal(array, expected)
    names = ", ".join(HIDDEN + OUTPUT)
    assert f"drawn anew, as {source.workdir} answers from another vocabulary: {names}" in lines
    assert f"not used of {source.workdir}: {names}" in lines


def test_other_widths_are_refused_by_name(source):
    fusion = dataclasses.replace(source.experiment.model.fusion, intermediate_size=48)
    model = model_of(source, model=dataclasses.replace(source.experiment.model, fusion=fusion))
    drawn = flat_parameters(model)
    with pytest.raises(UserError, match=r"fusion/.* the model has(.|\n)*--init.model"):
        start_from(model, source.scorer.parameters, source.workdir)
    for name, array in flat_parameters(model).items():
        np.testing.assert_array_equal(array, drawn[name])


PARTS = {"pixel_encoder": ("pixel_encoder/",), "transformer": ("text_encoder/", "fusion/", "head/")}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["checkpoint of the original", "run", "model directory", "name"])
def test_a_part_is_taken_of_a_whole_model(source, part, kind, tmp_path, monkeypatch):
    path = source.workdir
    if kind == "checkpoint of the original":
        path = tmp_path / "model.pt"
        write_torch_file(path, to_original(source.scorer.parameters))
    elif kind != "run":
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
        path = tmp_path / "model"
        clipbert_jax.load(source.workdir).save(path)
        if kind == "name":
            register("whole", path)
            path = Path("whole")
    model = model_of(source)
    drawn = flat_parameters(model)
    lines = start_from_file(model, path, part, tokens=source.tokenizer.tokens)
    for name, array in flat_parameters(model).items():
        expected = (source.scorer.parameters if name.startswith(PARTS[part]) else drawn)[name]
        np.testing.assert_allclose(array, expected, rtol=1e-6)
    others = {
        "pixel_encoder": "fusion, head, text_encoder, visual_embedding",
        "transformer": "pixel_encoder, visual_embedding",
    }
    assert f"not used of {path}, as other parts of a model: {others[part]}" in lines


def test_a_part_of_another_model_is_refused_with_what_train_can_do(source, tmp_path):
    fusion = dataclasses.replace(source.experiment.model.fusion, intermediate_size=48)
    model = model_of(source, model=dataclasses.replace(source.experiment.model, fusion=fusion))
    tokens = source.tokenizer.tokens
    with pytest.raises(UserError, match=r"Give --init.transformer another file, or the --model") as error:
        start_from_file(model, source.workdir, "transformer", tokens=tokens)
    assert "wrong shape: fusion/layers/0/" in str(error.value)
    assert "--allow-missing" not in str(error.value)
    with pytest.raises(UserError, match=r"--init.transformer .* vocabulary"):
        start_from_file(model, source.workdir, "transformer", tokens=tokens[:-1])
    with pytest.raises(UserError, match=r"--init.pixel-encoder .*nowhere is neither"):
        start_from_file(model, tmp_path / "nowhere", "pixel_encoder")


def test_another_vocabulary_is_refused(run_dir, data_dir, tmp_path, capsys):
    vocabulary = tmp_path / "vocab.txt"
    first, *rest = (data_dir / "vocab.txt").read_text().splitlines()
    vocabulary.write_text("\n".join([first, *reversed(rest)]) + "\n")
    arguments = ["train", "demo/retrieval", "--data-dir", data_dir, "--workdir", tmp_path / "run", *SMALL]
    said = fails([*arguments, "--data.vocab", vocabulary, "--init.model", run_dir], capsys)
    assert f"was trained with a vocabulary other than {vocabulary}" in said
    assert f"prepare the data with --vocab {run_dir}/vocab.txt" in said
    assert not (tmp_path / "run").exists()


def test_a_source_that_is_no_run_is_refused(data_dir, tmp_path, capsys):
    arguments = ["train", "demo/retrieval", "--data-dir", data_dir, "--workdir", tmp_path / "run", *SMALL]
    assert "does not exist" in fails([*arguments, "--init.model", tmp_path / "nowhere"], capsys)
    assert not (tmp_path / "run").exists()


def test_weights_are_taken_until_there_is_a_checkpoint(run_dir, data_dir, tmp_path, monkeypatch, capsys):
    source = shutil.copytree(run_dir, tmp_path / "source")
    expected = load_run(source).scorer.parameters
    workdir, models = tmp_path / "run", []

    def train(model, *args, **options):
        """Do what a run does that is killed before its first checkpoint is complete."""
        models.append(flat_parameters(model))
        (workdir / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(runs, "train", train)
    arguments = ["train", "demo/retrieval", "--data-dir", data_dir, "--workdir", workdir, *SMALL]
    arguments = [*map(str, arguments), "--init.model", str(source), "--train.seed", "1"]
    for _ in range(2):
        main(arguments)
        assert f"first weights from {source}" in capsys.readouterr().out
    for model in models:
        for name, array in expected.items():
            np.testing.assert_array_equal(model[name], array)

    (workdir / "checkpoints" / "1").mkdir()
    shutil.rmtree(source)
    main(arguments)
    assert "first weights" not in capsys.readouterr().out
