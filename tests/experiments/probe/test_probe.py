"""`clipbert probe`: its numbers are those of `clipbert predict`, of every task; bad input gets a sentence."""

import dataclasses

import cv2
import numpy as np
import pytest

from clipbert_jax.models.pixel_encoder import grid_size
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.decoding.examine import examine_video
from experiments.cli import main
from experiments.prediction.ask import ask_video
from experiments.probe.probe_video import cells_in_picture, make_page, picture_shares, probed_clips, region_of
from tests.experiments.conftest import OF_IMAGES, fails
from tests.experiments.untrained import untrained_run

QUESTIONS = {
    "retrieval": ("a drop and a moon", ()),
    "pretraining": ("a drop and a moon", ()),
    "open_ended_qa": ("which object appears besides the drop and the moon?", ()),
    "image_qa": ("is there a drop?", ()),
    "count": ("how many of these are there: drop and moon?", ()),
    "multiple_choice": ("which object appears?", ("drop", "moon", "leaf")),
}


@pytest.fixture
def video(data_dir):
    return open_corpus(data_dir).read("test_00000")


def run_of(task, data_dir, images_dir):
    return untrained_run(task, images_dir if task in OF_IMAGES else data_dir, scale=0.3)


def page_of(run, video, text, **options):
    return make_page(
        run, probed_clips(run, video, num_clips=2), text, facts={"model": "untrained"}, **options
    )


@pytest.mark.parametrize("task", QUESTIONS)
def test_scores_are_those_of_predict(task, data_dir, images_dir, video):
    run = run_of(task, data_dir, images_dir)
    text, options = QUESTIONS[task]
    page = page_of(run, video, text, options=options)
    (entry,) = ask_video(run, video, [text], options, num_clips=2).texts
    if task == "count":
        assert page.score == pytest.approx(entry["count_unrounded"], abs=1e-4)
        assert page.probability is None
    elif task == "multiple_choice":
        assert f"“{entry['choice']}”" in page.question
        assert page.text == f"{text} {entry['choice']}"
    else:
        assert page.probability == pytest.approx(entry["probability"], abs=1e-4)
    if task in ("retrieval", "pretraining"):
        alone = [clip.probability for clip in page.clips]
        np.testing.assert_allclose(alone, entry["clip_probabilities"], atol=1e-4)
    if "answer" in entry:
        assert f"“{entry['answer']}”" in page.question


def test_page_has_all_that_is_promised(data_dir, images_dir, video):
    run = run_of("retrieval", data_dir, images_dir)
    page = page_of(run, video, "a drop and a moon")
    assert [word.text for word in page.words] == ["[CLS]", "a", "drop", "and", "a", "moon", "[SEP]"]
    assert [word.tokens for word in page.words] == [(place,) for place in range(7)]
    assert page.words[0].change_without is None
    assert all(abs(word.change_without) > 0 for word in page.words[1:-1])
    fusion, (rows, columns) = run.experiment.model.fusion, page.rollout.shape[-2:]
    heads, layers = fusion.num_heads, fusion.num_layers
    assert page.text_to_grid.shape == (layers, heads, 2, 7, rows, columns)
    np.testing.assert_allclose(page.grid_to_text.shape, (layers, 2, 7, rows, columns))
    assert page.cell_changes.shape == (2, rows, columns)
    assert page.head_changes.shape == (layers, heads)
    assert page.faithfulness.keys() == {
        "attention, layer 1",
        "gradient-weighted, layer 1",
        "rollout",
    }
    for clip in page.clips:
        assert len(clip.frames) == len(clip.seconds)
        height, width = clip.frames[0].shape[:2]
        assert width / height == pytest.approx(video.index.width / video.index.height, rel=0.02)
        assert clip.frames[0].mean() > 20  # no padding in it
    assert page.duration == video.index.duration


def test_an_answer_that_is_asked_for_is_probed(data_dir, images_dir, video):
    run = run_of("open_ended_qa", data_dir, images_dir)
    text, _ = QUESTIONS["open_ended_qa"]
    (entry,) = ask_video(run, video, [text], num_clips=2).texts
    third = entry["answers"][2]
    page = page_of(run, video, text, answer=third["answer"])
    assert page.probability == pytest.approx(third["probability"], abs=1e-4)


def test_a_word_of_several_tokens_is_one_word(data_dir):
    tokenizer = untrained_run("retrieval", data_dir).tokenizer
    words = tokenizer.words("A Xylo moon", 12)
    assert [word for word, _ in words] == ["[CLS]", "A", "Xylo", "moon", "[SEP]"]
    assert [len(tokens) for _, tokens in words] == [1, 1, 4, 1, 1]
    ids, mask = tokenizer.encode(["A Xylo moon"], 12)
    assert words[-1][1] == (mask[0].sum() - 1,)
    assert tokenizer.tokens[ids[0, words[3][1][0]]] == "moon"


def test_words_that_are_cut_off_are_left_out(data_dir):
    tokenizer = untrained_run("retrieval", data_dir).tokenizer
    words = tokenizer.words("a drop and a moon", 5)
    ids, mask = tokenizer.encode(["a drop and a moon"], 5)
    assert [word for word, _ in words] == ["[CLS]", "a", "drop", "and", "[SEP]"]
    assert words[-1] == ("[SEP]", (4,))
    assert tokenizer.tokens[ids[0, 4]] == "[SEP]"
    assert mask.all()


def test_the_picture_s_share_of_the_grid_is_its_share_of_the_pixels(data_dir, images_dir, video):
    run = run_of("retrieval", data_dir, images_dir)  # one stage: 8 pixels a cell, 32 in all
    assert picture_shares(run, 100, 200, (4, 4)) == (1.0, 0.5)
    assert picture_shares(run, 200, 100, (4, 4)) == (0.5, 1.0)
    # 44 pixels have 5 cells of 8; the picture goes on for half a cell.
    run = dataclasses.replace(
        run,
        experiment=dataclasses.replace(
            run.experiment, data=dataclasses.replace(run.experiment.data, size=44)
        ),
    )
    assert grid_size(run.experiment.model.pixel_encoder, 44, 44) == (5, 5)
    assert picture_shares(run, 100, 100, (5, 5)) == (1.1, 1.1)
    assert cells_in_picture((5, 5), (1.1, 1.1)) == (5, 5)
    assert cells_in_picture((4, 4), (1.0, 0.5)) == (2, 4)
    assert cells_in_picture((4, 4), (0.6, 0.65)) == (3, 2)  # the centre of a cell decides
    assert cells_in_picture((4, 4), (0.01, 1.0)) == (4, 1)


def test_large_grids_are_hidden_in_squares():
    assert region_of((3, 3)) == region_of((8, 8)) == 1
    assert region_of((12, 12)) == 2
    assert region_of((24, 24)) == 3


def test_command_writes_the_page_and_the_figures(data_dir, images_dir, video, tmp_path, monkeypatch, capsys):
    run = run_of("retrieval", data_dir, images_dir)
    monkeypatch.setattr("experiments.runs.load_run.load_run", lambda path, step: run)
    path = tmp_path / "<b>.mp4"
    path.write_bytes(video.data)
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    main(
        [
            "probe",
            "untrained",
            str(path),
            "--text",
            "a drop & a zebra",
            "--num-clips",
            "2",
            "--out",
            str(page),
            "--figures",
            str(figures),
        ]
    )
    output = capsys.readouterr().out
    assert "the model has never seen: &, zebra" in output
    assert str(page) in output
    text = page.read_text()
    assert "<b>.mp4" not in text
    assert "&lt;b&gt;.mp4" in text
    assert {path.name for path in figures.iterdir()} == {"overview.png", "ablation.png", "heads.png"}


@pytest.mark.parametrize(
    ("task", "arguments", "sentence"),
    [
        ("retrieval", ["--text", "a", "--answer", "b"], "--answer is for models that answer questions"),
        ("retrieval", ["--text", "a", "--options", "b", "c"], "leave them out"),
        ("retrieval", ["--text", " "], "not empty"),
        ("retrieval", ["--text", "a", "--num-clips", "0"], "--num-clips must be"),
        ("retrieval", ["--text", "a", "--out", "page.png"], "must end in .html or .htm"),
        ("open_ended_qa", ["--text", "what?", "--answer", "zebra"], "--answer 'zebra'"),
        ("multiple_choice", ["--text", "what?"], "give two or more --options"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    task, arguments, sentence, data_dir, images_dir, video, tmp_path, monkeypatch, capsys
):
    run = run_of(task, data_dir, images_dir)
    monkeypatch.setattr("experiments.runs.load_run.load_run", lambda path, step: run)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.mp4"
    path.write_bytes(video.data)
    assert sentence in fails(["probe", "untrained", path, *arguments], capsys)


def test_a_broken_video_is_one_sentence(tmp_path, capsys):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"not a video")
    options = ["--text", "a", "--out", tmp_path / "page.html"]
    assert "broken.mp4" in fails(["probe", "run", path, *options], capsys)
    assert "does not exist" in fails(["probe", "run", tmp_path / "none.mp4", *options], capsys)


def test_one_frame_is_a_video_too(data_dir, images_dir, tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.full((40, 60, 3), 128, np.uint8))
    run = run_of("retrieval", data_dir, images_dir)
    page = make_page(run, probed_clips(run, examine_video(path), num_clips=1), "a drop", facts={})
    assert len(page.clips) == 1
    assert page.clips[0].seconds.tolist() == [0.0] * run.experiment.data.num_frames
