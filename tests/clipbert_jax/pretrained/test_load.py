"""Models are saved, named, found and loaded; nothing else than what was saved comes back."""

import dataclasses
import json
import math
import shutil
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import clipbert_jax
from clipbert_jax.config import ClipBertConfig
from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.pretrained import registry as model_registry
from clipbert_jax.pretrained.directory import Vocabulary, write_model
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.optimizer import OptimizerConfig
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.weights.flat import flat_parameters
from clipbert_jax.weights.formats.read_file import read_weights_file
from clipbert_jax.weights.formats.safetensors_writer import write_safetensors
from data_pipelines.data_config import DataConfig
from experiments.experiment import Experiment, to_json
from experiments.runs.load_run import load_run

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "ball")
DATA = {
    "num_clips": 2,
    "num_frames": 1,
    "fps": 2.0,
    "size": 32,
    "sampling_rule": "corrected",
    "max_text_length": 6,
}


def config():
    tiny = ClipBertConfig.tiny(vocab_size=8)
    encoder = dataclasses.replace(tiny.pixel_encoder, stage_blocks=(1,), stage_width=16)
    fusion = dataclasses.replace(tiny.fusion, num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32)
    return dataclasses.replace(tiny, pixel_encoder=encoder, fusion=fusion)


def experiment(task):
    return Experiment(
        model=config(),
        task=task,
        data=DataConfig(data_dir="data", **DATA),
        optimizer=OptimizerConfig(),
        train=TrainConfig(),
    )


def write(folder, task, answers=()):
    model = ClipBert(config(), task.head, rngs=nnx.Rngs(3))
    write_model(
        folder,
        config=to_json(experiment(task)),
        parameters=flat_parameters(model),
        vocabulary=Vocabulary(tokens=TOKENS, answers=answers),
        origin={"source": "a test"},
    )
    return model


def inputs(num_videos=None, num_texts=3):
    rng = np.random.default_rng(0)
    batch = () if num_videos is None else (num_videos,)
    frames = rng.integers(0, 256, (*batch, 2, 1, 32, 32, 3), np.uint8)
    ids = rng.integers(1, 7, (*batch, num_texts, 6), np.int32)
    return frames, ids, np.ones(ids.shape, bool)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "model", Retrieval())
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def _own_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


def test_what_is_loaded_is_what_was_written_and_saves_to_the_same_bytes(folder, tmp_path):
    loaded = clipbert_jax.load(folder)
    assert loaded.config == config()
    assert loaded.task == Retrieval()
    assert (loaded.inputs.tokens, loaded.inputs.size, loaded.inputs.max_text_length) == (TOKENS, 32, 6)
    loaded.save(tmp_path / "copy")
    names = ["config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json", "answers.json"]
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes(), name
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "not related to OpenAI's CLIP" in card
    assert model_registry.file_sha256(folder / "model.safetensors") in card


def test_probabilities_are_those_of_the_model(tmp_path):
    model = write(tmp_path / "model", Retrieval())
    loaded = clipbert_jax.load(str(tmp_path / "model"))
    frames, ids, mask = inputs(num_videos=2)
    logits = Retrieval().match_logit(nnx.jit(ClipBert.__call__)(model, frames, ids, mask).scores)
    predicted = loaded.predict(frames, ids, mask)
    np.testing.assert_allclose(predicted, jax.nn.sigmoid(logits), rtol=1e-5)
    np.testing.assert_allclose(loaded.predict(frames[1], ids[1], mask[1]), predicted[1], rtol=1e-5)
    attention = loaded.model()(frames, ids, mask, return_attention=True).attention
    assert attention[0].shape[:3] == (2, 2, 3)


def test_answers_are_in_the_order_of_the_vocabulary(tmp_path):
    task = OpenEndedQA(num_answers=4)
    write(tmp_path / "model", task, answers=("red", "blue", "two"))
    loaded = clipbert_jax.load(tmp_path / "model")
    predicted = loaded.predict(*inputs(num_texts=2))
    assert predicted.shape == (2, 3), "an output without an answer means nothing"
    np.testing.assert_allclose(predicted.sum(-1), 1, rtol=1e-5)
    assert loaded.answers == ("red", "blue", "two")


def test_a_name_finds_a_model_only_as_long_as_it_is_the_same(folder, tmp_path):
    model_registry.register("mine", folder)
    assert clipbert_jax.list_pretrained()["mine"].path == folder
    assert clipbert_jax.load("mine").config == config()
    with pytest.raises(UserError, match=r"yours does not exist.*there are: mine"):
        clipbert_jax.load("yours")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"model.safetensors has changed since it was named mine"):
        clipbert_jax.load("mine")
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="which is gone"):
        clipbert_jax.load("mine")
    with pytest.raises(UserError, match="is not a model directory"):
        model_registry.register("other", tmp_path)
    with pytest.raises(UserError, match="not valid for a model"):
        model_registry.register("../other", tmp_path)
    for text in ("{]", "[" * 200_000, '{"mine": {"path": "/", "sha256": {}}}'):
        model_registry.registry_path().write_text(text)
        with pytest.raises(UserError, match="is damaged"):
            clipbert_jax.list_pretrained()


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json", "answers.json"]
)
def test_a_name_is_that_of_all_files(folder, name):
    model_registry.register("mine", folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(UserError, match=f"{name} has changed since it was named mine .its sha256 differs"):
        clipbert_jax.load("mine")
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"has changed since|is gone"):
        clipbert_jax.load("mine")


def test_a_name_of_an_earlier_version_knows_its_weights(folder):
    path = model_registry.registry_path()
    path.parent.mkdir(parents=True)
    digest = model_registry.file_sha256(folder / "model.safetensors")
    path.write_text(json.dumps({"old": {"path": str(folder), "sha256": digest}}))
    model_registry.register("new", folder)
    assert clipbert_jax.load("old").config == clipbert_jax.load("new").config == config()


def test_names_that_are_given_at_the_same_time_are_all_kept(folder):
    names = [f"model-{number}" for number in range(16)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: model_registry.register(name, folder), names))
    assert clipbert_jax.list_pretrained().keys() == set(names)


def test_a_hub_is_asked_for_known_kinds_of_files_alone(folder, monkeypatch):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        if name != "someone/clipbert":
            raise OSError("404 Client Error\nmore")
        return str(folder)

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download)
    )
    assert clipbert_jax.load("hf:someone/clipbert@v1").config == config()
    assert asked == [("someone/clipbert", "v1", ["*.json", "*.safetensors", "*.txt", "README.md"])]
    with pytest.raises(UserError, match=r"someone/else .*404 Client Error\)"):
        clipbert_jax.load("hf:someone/else")
    with pytest.raises(UserError, match="runs/dmeo does not exist"):
        clipbert_jax.load("runs/dmeo")  # a path that is mistyped goes nowhere
    assert len(asked) == 2
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        clipbert_jax.load("hf:someone/clipbert")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("config.json", "{}", "has no 'model'"),
        ("config.json", "[]", "holds a list"),
        ("config.json", "{", "is not valid JSON"),
        ("config.json", "[" * 200_000, "config.json is not valid JSON"),
        ("answers.json", "{}", "holds a dict"),
        ("answers.json", "[" * 200_000, "answers.json is not valid JSON"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is not valid JSON"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds a list"),
        ("tokenizer_config.json", '{"do_lower_case": "false"}', "do_lower_case"),
        ("vocab.txt", "[UNK]\n[PAD]\n[CLS]\n[SEP]\n", r"vocab.txt must have \[PAD\] on its first line"),
        ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n", r"vocab.txt is not a BERT vocabulary: it lacks \[SEP\]"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xff\n", "vocab.txt is not UTF-8"),
        ("model.safetensors", "no weights", "model.safetensors"),
    ],
)
def test_a_damaged_file_is_named(folder, name, text, sentence):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=sentence):
        clipbert_jax.load(folder)


@pytest.mark.parametrize("load", [clipbert_jax.load, load_run], ids=["scripts", "commands"])
def test_scripts_and_commands_refuse_the_same(folder, load):
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab.txt is missing"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="holds no run and no model"):
        load(folder)


def test_a_config_of_another_model_is_refused_with_all_names(folder):
    values = json.loads((folder / "config.json").read_text())
    values["model"]["fusion"]["num_layers"] = 2
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="missing: fusion/layers/1/"):
        clipbert_jax.load(folder)
    values["model"]["fusion"]["__class__"] = "os.system"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="is not a config of this version"):
        clipbert_jax.load(folder)


@pytest.mark.parametrize(
    ("part", "field", "value", "sentence"),
    [
        ("fusion", "num_layers", 10**9, "impossible size"),
        ("fusion", "hidden_size", "16", "expected int @ config.fusion.hidden_size"),
        ("fusion", "num_layers", 1.0, "expected int @ config.fusion.num_layers"),
        ("pixel_encoder", "is_norm_trainable", "false", "expected bool @ config.pixel_encoder"),
        ("pixel_encoder", "pixel_std", [1.0, math.nan, 1.0], "expected float"),
        ("fusion", "num_layers", 100_000, "impossible size"),
        ("fusion", "num_heads", 3, "impossible size"),
        ("fusion", "num_heads", 0, "impossible size"),
        ("fusion", "hidden_size", -4, "impossible size"),
        ("fusion", "num_token_types", 10**9, "impossible size"),
        ("fusion", "vocab_size", 5, "has 7 tokens, and the model has words for 5"),
        ("data", "size", math.inf, "expected int"),
        ("data", "size", 0, "data.size 0, which must be from 16 to 4096"),
        ("data", "size", 200_000, "data.size 200000"),
        ("data", "num_clips", "3", "expected int"),
        ("data", "num_clips", 0, "data.num_clips 0"),
        ("data", "num_frames", True, "expected int"),
        ("data", "num_frames", 0, "data.num_frames 0"),
        ("data", "num_frames", 10**7, "data.num_frames 10000000"),
        ("data", "fps", "2", "expected float"),
        ("data", "fps", math.nan, "expected float"),
        ("data", "fps", math.inf, "expected float"),
        ("data", "fps", -1.0, "data.fps -1"),
        ("data", "fps", 0.0, "data.fps 0"),
        ("data", "sampling_rule", "nonsense", "@ config.sampling_rule"),
        ("data", "max_text_length", 0, "data.max_text_length 0"),
        ("data", "max_text_length", 5000, "data.max_text_length 5000, which must be from 2 to 64"),
    ],
)
def test_a_config_that_means_harm_or_nothing_is_refused(folder, part, field, value, sentence):
    values = json.loads((folder / "config.json").read_text())
    (values if part == "data" else values["model"])[part][field] = value
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=sentence):
        clipbert_jax.load(folder)


@pytest.mark.parametrize(
    ("dtype", "value"), [(np.float32, np.nan), (ml_dtypes.bfloat16, np.inf), (np.float64, 1e300)]
)
def test_weights_that_are_not_finite_are_named(folder, dtype, value):
    arrays = dict(read_weights_file(folder / "model.safetensors").arrays)
    for name in ("fusion/layers/0/query/kernel", "head/output/bias"):
        arrays[name] = arrays[name].astype(dtype)
        arrays[name].flat[-1] = value
    write_safetensors(folder / "model.safetensors", arrays, {})
    names = "fusion/layers/0/query/kernel, head/output/bias"
    with pytest.raises(UserError, match=rf"are not finite \(2 of {len(arrays)}: {names}\)"):
        clipbert_jax.load(folder)


def test_names_of_strangers_cannot_reach_the_terminal_and_are_few(folder):
    arrays = dict(read_weights_file(folder / "model.safetensors").arrays)
    arrays |= {f"x/\x1b[2J{number}": np.zeros(1, np.float32) for number in range(80)}
    write_safetensors(folder / "model.safetensors", arrays, {})
    with pytest.raises(
        UserError, match=r"80 problems(.|\n)*unused: x/\?\[2J0 \(1,\)(.|\n)*and 30 more$"
    ) as error:
        clipbert_jax.load(folder)
    assert "\x1b" not in str(error.value)


def test_quantised_weights_are_no_weights(folder):
    arrays = dict(read_weights_file(folder / "model.safetensors").arrays)
    name = "fusion/layers/0/query/kernel"
    arrays[name] = np.ones(arrays[name].shape, np.int8)
    write_safetensors(folder / "model.safetensors", arrays, {})
    with pytest.raises(UserError, match="holds int8 as fusion/layers/0/query/kernel"):
        clipbert_jax.load(folder)


def test_a_model_has_no_steps(folder):
    with pytest.raises(UserError, match="has no checkpoints"):
        clipbert_jax.load(folder, step=3)


def test_a_directory_that_holds_something_is_not_written(folder):
    with pytest.raises(UserError, match="is not empty"):
        clipbert_jax.load(folder).save(folder)


def test_a_model_is_written_where_one_stands(folder, tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    clipbert_jax.load(folder).save(".")
    assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in folder.iterdir())
    assert "# there" in (there / "README.md").read_text()
    assert Path.cwd().samefile(there), "the directory itself is still the same"
    assert clipbert_jax.load(there).config == config()


def test_the_file_is_one_that_safetensors_reads(folder):
    from safetensors.numpy import load_file

    theirs = load_file(folder / "model.safetensors")
    ours = read_weights_file(folder / "model.safetensors").arrays
    assert theirs.keys() == ours.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(array, ours[name])
