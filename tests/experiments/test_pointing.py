from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.probing.model_probe import Look
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records
from data_pipelines.corpus.builder import open_corpus
from data_pipelines.corpus.embedded_drawing import OBJECTS
from experiments import pointing
from experiments.pointing_maps import CLS, PICTURE, WORD, MapName, Points, attention_maps
from experiments.pointing_videos import PointingVideo, find_words, pointing_videos

from .untrained import untrained_run

GRID = (4, 4)


@pytest.fixture(scope="module")
def videos(data_dir: Path) -> list[PointingVideo]:
    run = untrained_run("retrieval", data_dir)
    return list(pointing_videos(run, data_dir=str(data_dir), split="test", num_clips=8, grid=GRID))


def test_words_are_those_that_name_the_objects(videos, data_dir):
    tokenizer = untrained_run("retrieval", data_dir).tokenizer
    captions = {caption.video_id: caption.text for caption in read_records(data_dir, Caption, "test")}
    assert [video.video_id for video in videos] == list(captions)
    for video in videos:
        assert video.text == captions[video.video_id]
        tokens = tokenizer.split(video.text)
        named = [tokens[place] for (place,) in video.words]
        assert set(named) <= set(OBJECTS)
        assert sorted(named) == sorted(set(tokens) & set(OBJECTS))


def test_targets_are_where_the_colour_of_the_named_object_is(videos, data_dir):
    """Look at the pixels that the model sees; nothing else in a video has the colour of an object."""
    tokenizer = untrained_run("retrieval", data_dir).tokenizer
    num_shown = 0
    for video in videos:
        tokens = tokenizer.split(video.text)
        for (place,), shown, targets in zip(video.words, video.is_shown, video.targets, strict=True):
            frames = video.frames[:, 0].astype(int)
            is_near = abs(frames - OBJECTS[tokens[place]]).max(axis=-1) < 40
            has_colour = is_near & frames.any(axis=-1)  # padding is black
            assert (has_colour.sum(axis=(1, 2)) > 6).tolist() == shown.tolist()
            assert not targets[~shown].any()
            side = frames.shape[1] // GRID[0]
            by_cell = has_colour.reshape(len(frames), GRID[0], side, GRID[1], side).sum(axis=(2, 4))
            for clip in np.flatnonzero(shown & targets.any(axis=(1, 2))):
                num_shown += 1
                assert by_cell[clip][targets[clip]].sum() > by_cell[clip][~targets[clip]].sum() / 2
                assert video.in_picture[targets[clip]].all()
    assert num_shown > 3 * len(videos)


def test_padding_is_not_in_the_picture(videos, data_dir):
    corpus = open_corpus(data_dir)
    for video in videos:
        index = corpus.read(video.video_id).index
        is_wide = index.width > index.height
        assert video.in_picture.tolist() == [
            [bool(row < 3 if is_wide else column < 3) for column in range(4)] for row in range(4)
        ]
        padding = video.frames[:, 0, -8:] if is_wide else video.frames[:, 0, :, -8:]
        assert not padding.any()


def test_a_case_has_a_shown_object_and_one_that_is_not(videos):
    for video in videos:
        cases = video.cases()
        assert len(cases) == video.is_shown.sum()  # clips of one frame show one object at most
        for shown, clip, hidden in cases:
            assert video.is_shown[shown, clip]
            assert not video.is_shown[hidden, clip]


def test_names_are_found_before_the_text_is_cut():
    tokens = ["[CLS]", "a", "red", "box", "and", "a", "red", "ball", "[SEP]"]
    assert find_words(tokens, ["red", "ball"], 8) == (6, 7)
    assert find_words(tokens, ["red", "box"], 8) == (2, 3)
    with pytest.raises(UserError, match="'red ball' in the text 'a red box and a red ball', of which it t"):
        find_words(tokens, ["red", "ball"], 7)


def hand_made_look() -> Look:
    """Two layers, one clip, two heads, three text tokens and a grid of 1 x 2."""
    attention = np.zeros((2, 1, 2, 5, 5), np.float32)
    attention[0, 0, 0, 1, 3] = 1.0  # layer 1, head 1: the word looks at the first cell,
    attention[0, 0, 1, 1, 4] = 0.5  # head 2 at the second,
    attention[1, 0, :, 0, 4] = 1.0  # and in layer 2 [CLS] at the second.
    attention[1, 0, 0, 3, 1] = 1.0  # Layer 2: the first cell looks at the word.
    gradient = np.zeros_like(attention)
    gradient[0, 0, 0, 1, 3] = -1.0
    gradient[0, 0, 1, 1, 4] = 2.0
    return Look(
        scores=np.zeros((1, 2), np.float32),
        clip_numbers=np.zeros(1, np.float32),
        number=0.0,
        attention=attention,
        attention_times_gradient=gradient,
        hidden_states=np.zeros((3, 1, 5, 4), np.float32),
        grid=(1, 2),
    )


def test_maps_of_a_hand_made_look():
    maps = attention_maps(hand_made_look(), [(1,), (1, 2)])
    assert all(of_name.shape == (2, 1, 1, 2) for of_name in maps.values())
    by_name = {str(name): of_name[:, 0, 0].tolist() for name, of_name in maps.items()}
    assert by_name["word, layer 1, head 1"] == [[1, 0], [0.5, 0]]
    assert by_name["word, layer 1, head 2"] == [[0, 0.5], [0, 0.25]]
    assert by_name["word, layer 1"] == [[0.5, 0.25], [0.25, 0.125]]
    assert by_name["word, gradient, layer 1"] == [[0, 1], [0, 0.5]]
    assert by_name["picture to word, layer 2"] == [[0.5, 0], [0.25, 0]]
    assert by_name["[CLS], layer 2"] == [[0, 1], [0, 1]]
    assert "word, gradient, layer 2" not in by_name


def test_a_map_that_knows_where_things_are_is_told_from_one_that_does_not():
    rng = np.random.default_rng(0)
    videos = tuple(np.repeat([f"v{i}" for i in range(40)], 6).tolist())
    chances = np.full(len(videos), 0.2)

    def points(*rates: float) -> Points:
        knows, cls = (rng.random(len(videos)) < rate for rate in rates[:2])
        wrong = rng.random(len(videos)) < rates[2]
        names = MapName(WORD, 1, 1), MapName(CLS, 1, "mean")
        return Points(
            hits=dict(zip(names, (knows * 1.0, cls * 1.0), strict=True)),
            wrong_hits={names[0]: wrong * 1.0},
            chances=chances,
            video_of_case=videos,
        )

    untrained = points(0.2, 0.2, 0.2)
    for rate, reaches, knows in ((0.9, "at least", "word, layer 1, head 1"), (0.2, "less than", "none")):
        maps = pointing.map_numbers(points(rate, 0.2, 0.2), untrained, seed=0)
        assert maps[0]["low"] < maps[0]["accuracy"] < maps[0]["high"]
        assert maps[0]["times_chance"] == pytest.approx(rate / 0.2, abs=0.5)
        assert maps[1]["wrong_word"] is None
        said = pointing.conclusion({"maps": maps})
        assert f"{reaches} 2." in said
        assert f"Clearly better than with a wrong word: {knows}." in said


def test_the_command_writes_all_that_the_numbers_depend_on(run_of, tmp_path, capsys):
    run_dir, out = run_of("retrieval"), tmp_path / "pointing.json"
    options = ["--num-clips", "4", "--num-videos", "2", "--num-agreement-videos", "2", "--seed", "3", "--out"]
    pointing.main([str(run_dir), *options, str(out)])
    printed = capsys.readouterr().out
    numbers = json.loads(out.read_text())
    assert numbers["num_videos"] == 2
    assert 2 <= numbers["num_cases"] <= 8
    assert 0 < numbers["chance"] < 1
    kinds = {row["kind"] for row in numbers["maps"]}
    assert {WORD, PICTURE, CLS, "ablation"} <= kinds
    for row in numbers["maps"]:
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert str(MapName(row["kind"], row["layer"], row["head"])) in printed
    (best,) = [row for row in numbers["agreement"] if row["kind"] == "ablation"]
    assert best["rank_correlation"] == pytest.approx(1.0)
    assert best["num_videos"] == 2
    run = numbers["run"]
    assert (run["split"], run["num_clips"], run["num_frames"], run["size"]) == ("test", 4, 1, 32)
    assert (run["consensus"], run["seed"], run["training_seed"]) == ("mean", 3, 0)
    assert "jax" in run["versions"]
    assert run["command"]


def test_what_cannot_play_is_refused(run_of, data_dir, tmp_path):
    game = pointing.Game(data_dir=str(data_dir))
    with pytest.raises(UserError, match="of open_ended_qa: the pointing game needs one of retrieval"):
        pointing.pointing(untrained_run("open_ended_qa", data_dir), game)
    with pytest.raises(UserError, match="--num-clips takes a number from 1 to"):
        pointing.main([str(run_of("retrieval")), "--num-clips", "0"])
    with pytest.raises(UserError, match="must end in"):
        pointing.main([str(run_of("retrieval")), "--out", str(tmp_path / "a.txt")])
