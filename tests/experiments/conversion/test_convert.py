"""`clipbert convert`: weights in and out, with an account of every name; and training from them."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import clipbert_jax
from clipbert_jax.config_json import config_to_json
from clipbert_jax.errors import UserError
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.weights.formats.read_file import read_weights_file
from clipbert_jax.weights.formats.safetensors_writer import write_safetensors
from clipbert_jax.weights.formats.torch_writer import write_torch_file
from clipbert_jax.weights.names.original_names import to_original
from experiments.cli import main
from experiments.conversion.convert import read_answers
from experiments.runs.load_run import load_run
from tests.experiments.conftest import SMALL, fails


@pytest.fixture(scope="module")
def run(run_of):
    return run_of("retrieval")


@pytest.fixture(scope="module")
def checkpoint(run, tmp_path_factory):
    """The run as a checkpoint of the original."""
    path = tmp_path_factory.mktemp("original") / "model.pt"
    main(["convert", str(run), "--to", "torch", "--out", str(path)])
    return path


@pytest.fixture
def convert(run, checkpoint, tmp_path, capsys):
    """Return a function: options -> what is said; the model is in tmp_path/model."""

    def convert(*options, files=(checkpoint,)):
        arguments = [*files, "--out", tmp_path / "model", "--experiment", run, *options]
        main(["convert", *map(str, arguments)])
        return capsys.readouterr().out

    return convert


def test_a_checkpoint_of_the_original_comes_back_to_the_bit(run, checkpoint, convert, tmp_path):
    vocab = ["--vocab", run / "vocab.txt"]
    said = convert(*vocab)
    assert "ClipBERT (torch zip)" in said
    assert "transformer.bert.encoder.layer.0.attention.self.query.weight" in said
    assert "fusion/layers/0/query/kernel" in said
    assert "ignored: no output depends on it" in said  # a table that the original never reads
    assert "1 ignored by rule, 0 unused, 0 new" in said
    ours, theirs = clipbert_jax.load(tmp_path / "model"), clipbert_jax.load(run)
    assert ours.task == theirs.task
    assert ours.parameters.keys() == theirs.parameters.keys()
    for name, array in theirs.parameters.items():
        np.testing.assert_array_equal(ours.parameters[name], array, err_msg=name)
    main(["convert", str(tmp_path / "model"), "--to", "torch", "--out", str(tmp_path / "again.pt")])
    assert (tmp_path / "again.pt").read_bytes() == checkpoint.read_bytes()
    assert "sha256" in (tmp_path / "model" / "README.md").read_text()


def test_a_model_is_used_as_a_run_is(run, convert, tmp_path, data_dir, capsys):
    convert("--vocab", run / "vocab.txt")
    video = next((data_dir / "samples").glob("*.mp4"))
    answers = []
    for folder in (run, tmp_path / "model"):
        main(["predict", str(folder), str(video), "--texts", "a ball", "a leaf", "--json"])
        answers.append(json.loads(capsys.readouterr().out)["texts"])
    assert answers[0] == answers[1]
    text = fails(["predict", tmp_path / "model", video, "--texts", "a ball", "--step", "2"], capsys)
    assert "is a model, not a run" in text


def test_a_name_is_given_and_found(run, convert, tmp_path, monkeypatch, data_dir, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert "named tiny-1" in convert("--vocab", run / "vocab.txt", "--name", "tiny-1")
    assert load_run(Path("tiny-1")).workdir == tmp_path / "model"


def damaged(checkpoint, tmp_path, change):
    """Return the checkpoint with its names changed."""
    arrays = dict(read_weights_file(checkpoint).arrays)
    change(arrays)
    path = tmp_path / "damaged.pt"
    write_torch_file(path, arrays)
    return path


QUERY = "transformer.bert.encoder.layer.0.attention.self.query.weight"


def test_all_that_does_not_fit_is_named_at_once(run, checkpoint, tmp_path, capsys):
    def change(arrays):
        del arrays[QUERY]
        arrays["transformer.bert.pooler.dense.bias"] = np.zeros(3, np.float32)
        arrays["transformer.novel.weight"] = np.zeros((2, 2), np.float32)

    path = damaged(checkpoint, tmp_path, change)
    arguments = [
        "convert",
        path,
        "--out",
        tmp_path / "out",
        "--experiment",
        run,
        "--vocab",
        run / "vocab.txt",
    ]
    text = fails(arguments, capsys)
    assert "3 problem(s)" in text
    assert "missing: fusion/layers/0/query/kernel (16, 16)" in text
    assert "wrong shape: fusion/pooler/bias is (3,), the model has (16,)" in text
    assert "unused: transformer.novel.weight (2, 2)" in text
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_drawn_anew_only_if_it_is_named(run, checkpoint, convert, tmp_path):
    def change(arrays):
        del arrays[QUERY]
        for name in [name for name in arrays if ".classifier." in name]:
            del arrays[name]

    files = [damaged(checkpoint, tmp_path, change)]
    vocab = ["--vocab", run / "vocab.txt"]
    said = convert(*vocab, "--allow-missing", "fusion/layers/*/query/kernel", files=files)
    assert "new: fusion/layers/0/query/kernel, drawn at random" in said
    assert "the head is new: drawn at random, to be trained" in said
    assert "fusion/layers/0/query/kernel" in (tmp_path / "model" / "README.md").read_text()


def test_a_head_of_another_task_is_left_out_and_a_new_one_drawn(run, convert, tmp_path):
    files = counting(run, tmp_path)
    said = convert("--vocab", run / "vocab.txt", "--experiment", tmp_path / "count", files=files)
    assert said.count("left out: the head of another task") == 4
    assert "the head is new: drawn at random, to be trained" in said
    assert "new: head/regression_output/kernel, drawn at random" in said
    ours, theirs = clipbert_jax.load(tmp_path / "model"), clipbert_jax.load(run)
    assert ours.task == CountQA()
    for name in theirs.parameters.keys() & ours.parameters.keys():
        np.testing.assert_array_equal(ours.parameters[name], theirs.parameters[name], err_msg=name)


@pytest.mark.parametrize("num_outputs", [0, 5])  # 0: as many as answers
def test_a_classifier_of_another_task_is_known_by_its_shape(num_outputs, run, checkpoint, convert, tmp_path):
    with_task(run, tmp_path / "qa", OpenEndedQA(num_answers=num_outputs))
    (tmp_path / "answers.json").write_text(json.dumps(["a", "b", "c", "d", "e"]))
    said = convert(*answering(run, tmp_path))
    assert said.count("left out: the head of another task") == 4
    assert "the head is new: drawn at random, to be trained" in said
    assert "new: head/output/kernel, drawn at random" in said
    assert "the head is from" not in said
    model = clipbert_jax.load(tmp_path / "model")
    assert model.task == OpenEndedQA(num_answers=5)
    assert model.parameters["head/output/kernel"].shape[1] == 5


def test_a_classifier_that_fits_is_said_to_be_taken(run, checkpoint, convert, tmp_path):
    with_task(run, tmp_path / "qa", OpenEndedQA())
    (tmp_path / "answers.json").write_text(json.dumps(["no", "yes"]))
    said = convert(*answering(run, tmp_path))
    assert f"the head is from {checkpoint}: its shapes fit" in said
    assert "the head is new" not in said
    ours, theirs = clipbert_jax.load(tmp_path / "model"), clipbert_jax.load(run)
    name = "head/output/kernel"
    np.testing.assert_array_equal(ours.parameters[name], theirs.parameters[name])


def answering(run, tmp_path):
    vocab = ["--vocab", run / "vocab.txt"]
    return [*vocab, "--experiment", tmp_path / "qa", "--answers", tmp_path / "answers.json"]


def with_task(run, folder, task):
    """Write the config of a run, but for another task."""
    config = json.loads((run / "config.json").read_text())
    config["task"] = {**config_to_json(task), "name": task.name}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))


def counting(run, tmp_path):
    """Write the config of a run that counts; return the checkpoint of the run."""
    with_task(run, tmp_path / "count", CountQA())
    path = tmp_path / "retrieval.pt"
    write_torch_file(path, to_original(clipbert_jax.load(run).parameters))
    return [path]


def test_weights_that_are_not_finite_are_named(run, checkpoint, tmp_path, capsys):
    def change(arrays):
        arrays[QUERY] = arrays[QUERY].copy()
        arrays[QUERY][0, 0] = np.nan

    path = damaged(checkpoint, tmp_path, change)
    options = ["--out", tmp_path / "out", "--experiment", run, "--vocab", run / "vocab.txt"]
    said = fails(["convert", path, *options], capsys)
    assert "weights are not finite (1 of" in said
    assert "fusion/layers/0/query/kernel" in said
    assert not (tmp_path / "out").exists()


def test_names_of_strangers_cannot_reach_the_terminal_and_are_few(run, tmp_path, capsys):
    names = [f"x/\x1b]0;owned\x07{number}" for number in range(80)]
    write_safetensors(tmp_path / "x.safetensors", dict.fromkeys(names, np.zeros(3, np.float32)), {})
    options = ["--out", tmp_path / "out", "--experiment", run, "--vocab", run / "vocab.txt"]
    said = fails(["convert", tmp_path / "x.safetensors", *options], capsys)
    assert "\x1b]0" not in said
    assert "\x07" not in said
    assert "x/?]0;owned?7" in said  # in the table
    assert said.count("\n  unused: x/?") == 50
    assert re.search(r"\n  and \d+ more\n", said)


def test_a_place_that_cannot_be_written_is_said_first(run, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "experiments.conversion.convert.import_file", lambda *_: pytest.fail("weights were read")
    )
    (tmp_path / "file").write_text("")
    options = ["--experiment", run, "--vocab", run / "vocab.txt"]
    for out in (tmp_path / "file" / "model", tmp_path / "file"):
        said = fails(["convert", checkpoint, "--out", out, *options], capsys)
        assert re.search(r"cannot be written \(Not a directory\)|is not empty", said)
    said = fails(["convert", checkpoint, "--out", tmp_path / "model", "--name", "a/b", *options], capsys)
    assert "is not valid for a model" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "no vocab.txt lies beside these files"),
        (["--experiment", "msrvtt/retrievel_corrected"], "did you mean msrvtt/retrieval_corrected?"),
        (["--experiment", "msrvtt/qa_corrected", "--vocab", "VOCAB"], "needs --answers FILE"),
    ],
)
def test_what_is_not_said_is_asked_for(options, sentence, run, checkpoint, tmp_path, capsys):
    options = [str(run / "vocab.txt") if option == "VOCAB" else option for option in options]
    assert sentence in fails(["convert", checkpoint, "--out", tmp_path / "out", *options], capsys)


def test_an_output_that_is_there_is_kept(run, checkpoint, capsys):
    assert "is not empty" in fails(["convert", checkpoint, "--out", run], capsys)
    text = fails(["convert", run, "--to", "torch", "--out", checkpoint], capsys)
    assert "--out" in text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"yes": 0, "no": 1, "re', "is not valid JSON"),
        ('["yes", "no"', "is not valid JSON"),
        ("[" * 200_000, "is not valid JSON"),
        ("", "has no answers"),
        ("[]", "has no answers"),
        ('["a", "b", "a"]', r"has answers twice \(a\)"),
        ("a\nb\na\n", r"has answers twice \(a\)"),
        ('{"a": 1, "b": 2}', "must number its answers from 0 to 1"),
        ('{"a": 0, "b": 0}', "must number its answers from 0 to 1"),
        ("3", "must hold a list of answers"),
        ("[1, 2]", "must hold a list of answers"),
    ],
)
def test_answers_that_would_shift_are_refused(text, sentence, tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_answers(path)
    path.write_text('{"b": 1, "a": 0}')
    assert read_answers(path) == ["a", "b"]
    path.write_bytes("a\r\nb\u2028c\n".encode())
    assert read_answers(path) == ["a", "b\u2028c"]
    path.write_bytes(b"a\n\xff\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_answers(path)


def snippet(text):
    """Return the indented code that reads clips."""
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", text, flags=re.MULTILINE)
    (code,) = (textwrap.dedent(block) for block in blocks if "read_clips(" in block)
    return code


def test_the_readme_and_the_card_score_a_video_as_predict_does(run, convert, data_dir, tmp_path, capsys):
    """Both as they stand, but for their paths."""
    convert("--vocab", run / "vocab.txt")
    video = str(next((data_dir / "samples").glob("*.mp4")))
    readme = snippet((Path(__file__).parents[3] / "README.md").read_text())
    card = snippet((tmp_path / "model" / "README.md").read_text())
    for code, paths in (
        (readme, {"runs/demo": str(run), "data/demo/samples/test_00000.mp4": video}),
        (card, {"path of this directory": str(tmp_path / "model"), "video.mp4": video}),
    ):
        for path, own in paths.items():
            assert code.count(f'"{path}"') == 1, path
            code = code.replace(f'"{path}"', repr(own))
        names = {}
        exec(compile(code, "snippet", "exec"), names)
        printed = [float(number) for number in re.findall(r"\d\.\d+(?:e-\d+)?", capsys.readouterr().out)]
        main(["predict", str(run), video, "--texts", *names["texts"], "--num-clips", "8", "--json"])
        said = {line["text"]: line["probability"] for line in json.loads(capsys.readouterr().out)["texts"]}
        np.testing.assert_allclose(printed, [said[text] for text in names["texts"]], rtol=1e-4)


def train(data_dir, workdir, *options):
    arguments = ["train", "demo/retrieval", "--data-dir", data_dir, "--workdir", workdir, *SMALL, *options]
    main([*map(str, arguments), "--train.num-steps", "1"])


def test_training_starts_from_a_model_directory_or_a_file(
    run, checkpoint, convert, tmp_path, data_dir, capsys
):
    convert("--vocab", run / "vocab.txt")
    losses = []
    for number, source in enumerate((run, tmp_path / "model", checkpoint)):
        train(data_dir, tmp_path / str(number), "--init.model", source)
        losses.append(
            json.loads((tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        )
        assert "first weights" in capsys.readouterr().out
    assert losses[0] == losses[1] == losses[2]


def test_pretraining_starts_from_a_resnet_and_a_bert(run, tmp_path, data_dir, capsys):
    state = to_original(load_run(run).scorer.parameters)
    bert = {
        name.removeprefix("transformer."): array
        for name, array in state.items()
        if name.startswith("transformer.bert.") and ".visual_embeddings." not in name
    }
    resnet = {
        name.removeprefix("cnn.feature."): array
        for name, array in state.items()
        if name.startswith("cnn.feature.")
    }
    write_torch_file(tmp_path / "bert.bin", bert)
    write_torch_file(tmp_path / "resnet.pth", resnet)
    options = ["--init.transformer", tmp_path / "bert.bin", "--init.pixel-encoder", tmp_path / "resnet.pth"]
    train(data_dir, tmp_path / "run", *options, "--optimizer.max-grad-norm", "0")
    said = capsys.readouterr().out
    assert "first weights of the transformer from" in said
    assert "left as they were: pixel_encoder/grid_encoder/kernel" in said
    # One step at a warm-up's first learning rate moves little.
    ours, theirs = (load_run(folder).scorer.parameters for folder in (tmp_path / "run", run))
    names = ("pixel_encoder/stages/res2/0/conv2/kernel", "fusion/layers/0/query/kernel")
    names = (*names, "text_encoder/word_embeddings/embedding")
    for name in names:
        assert np.abs(np.asarray(ours[name]) - theirs[name]).max() < 0.05 * np.abs(theirs[name]).max(), name
    # The file's pixels have another scale than the demo's, which the stem makes up for.
    stem = "pixel_encoder/stem/kernel"
    ratios = np.median(np.asarray(ours[stem]) / np.asarray(theirs[stem]), axis=(0, 1, 3))
    np.testing.assert_allclose(ratios, [57.375, 57.12, 58.395], rtol=0.01)
    arguments = ["train", "demo/retrieval", "--data-dir", data_dir, "--workdir", tmp_path / "no", *SMALL]
    text = fails([*arguments, "--init.transformer", tmp_path / "resnet.pth"], capsys)
    assert "missing: " in text
    assert not (tmp_path / "no").exists()
