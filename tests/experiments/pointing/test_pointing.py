from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.probing.faithfulness import MapFaithfulness, RankFaithfulness
from clipbert_jax.probing.model_probe import AttentionRecord, ModelProbe
from clipbert_jax.probing.probe_score import ProbeScore
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.synthetic.drawing import OBJECTS
from experiments.notebook.probing import pointing_table
from experiments.pointing import run as pointing
from experiments.pointing.faithfulness import faithfulness_by_video, passed
from experiments.pointing.maps import CLS, PICTURE, WORD, Cases, MapName, attention_maps, count_hits, look_at
from experiments.pointing.videos import PointingVideo, find_words, pointing_videos
from tests.experiments.untrained import untrained_run

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
    with pytest.raises(UserError, match="without 'red ball'"):
        find_words(tokens, ["red", "ball"], 7)


def hand_made_record() -> AttentionRecord:
    """Two layers, one clip, two heads, three text tokens and a grid of 1 x 2."""
    attention = np.zeros((2, 1, 2, 5, 5), np.float32)
    attention[0, 0, 0, 1, 3] = 1.0  # layer 1, head 1: the word looks at the first cell,
    attention[0, 0, 1, 1, 4] = 0.5  # head 2 at the second,
    attention[1, 0, :, 0, 4] = 1.0  # and in layer 2 [CLS] at the second.
    attention[1, 0, 0, 3, 1] = 1.0  # Layer 2: the first cell looks at the word.
    gradient = np.zeros_like(attention)
    gradient[0, 0, 0, 1, 3] = -1.0
    gradient[0, 0, 1, 1, 4] = 2.0
    return AttentionRecord(
        scores=np.zeros((1, 2), np.float32),
        clip_numbers=np.zeros(1, np.float32),
        number=0.0,
        attention=attention,
        attention_times_gradient=gradient,
        hidden_states=np.zeros((3, 1, 5, 4), np.float32),
        grid=(1, 2),
    )


def test_maps_of_a_hand_made_record():
    maps = attention_maps(hand_made_record(), [(1,), (1, 2)])
    assert all(of_name.shape == (2, 1, 1, 2) for of_name in maps.values())
    by_name = {str(name): of_name[:, 0, 0].tolist() for name, of_name in maps.items()}
    assert by_name["word, layer 1, head 1"] == [[1, 0], [0.5, 0]]
    assert by_name["word, layer 1, head 2"] == [[0, 0.5], [0, 0.25]]
    assert by_name["word, layer 1"] == [[0.5, 0.25], [0.25, 0.125]]
    assert by_name["word, gradient, layer 1"] == [[0, 1], [0, 0.5]]
    assert by_name["picture to word, layer 2"] == [[0.5, 0], [0.25, 0]]
    assert by_name["[CLS], layer 2"] == [[0, 1], [0, 1]]
    assert "word, gradient, layer 2" not in by_name


CENTRE, CORNER, FOLLOWS, SEES = (MapName(WORD, 1, head) for head in (1, 2, 3, 4))
"""A dot in the middle, one in a corner, a map that follows the object named, one that follows anything."""


def hand_made_cases() -> Cases:
    """80 videos of 3 objects in 4 x 4 cells: half in the middle, a quarter in a corner, or anywhere."""
    rng = np.random.default_rng(0)
    num_cases = 240
    anywhere = rng.integers(16, size=num_cases)
    places = np.where(np.arange(num_cases) % 4 < 2, 5, np.where(np.arange(num_cases) % 4 == 2, 15, anywhere))

    def pointing_at(cells: np.ndarray | int) -> np.ndarray:
        return (np.arange(16) == np.broadcast_to(cells, num_cases)[:, None]).astype(float).reshape(-1, 4, 4)

    targets = pointing_at(places)
    elsewhere = pointing_at((places + rng.integers(1, 16, size=num_cases)) % 16)
    middle, corner = pointing_at(5), pointing_at(15)
    return Cases(
        maps={CENTRE: middle, CORNER: corner, FOLLOWS: targets, SEES: targets, MapName(CLS, 1): middle},
        wrong_maps={CENTRE: middle, CORNER: corner, FOLLOWS: elsewhere, SEES: targets},
        targets=targets > 0,
        in_picture=np.ones_like(targets, dtype=bool),
        video_of_case=tuple(f"v{case // 3}" for case in range(num_cases)),
    )


def test_dots_are_told_from_maps_that_follow_the_video_and_from_those_that_know_their_word():
    points = count_hits(hand_made_cases())
    maps = pointing.map_numbers(points, points, seed=0)
    of = {MapName(row["kind"], row["layer"], row["head"]): row for row in maps}
    missed = {name: row["missed"] for name, row in of.items()}

    # Many times chance, in all cases or where the middle misses, are no sign of having looked.
    assert of[CENTRE]["times_chance"] > 8
    assert missed[CENTRE]["accuracy"] == 0
    assert missed[CORNER]["times_chance"] > 6
    for dot in (CENTRE, CORNER):
        assert of[dot]["other_video"] == of[dot]["wrong_word"]
        assert of[dot]["other_video"]["accuracy"] == pytest.approx(of[dot]["accuracy"])
    for shares in (of, missed):
        assert [name for name in of if pointing.follows_its_video(shares[name])] == [FOLLOWS, SEES]
        assert [name for name in of if pointing.knows_its_word(shares[name])] == [FOLLOWS]
    assert of[MapName(CLS, 1)]["wrong_word"] is None

    assert pointing.conclusion(maps) == (
        "Best of 5 maps where the constant cell misses, chosen on these videos: word, layer 1, head 3, "
        "16.00 times chance, at least 2.\n"
        "Clearly better there than the maps of other videos: word, layer 1, head 3; word, layer 1, head 4.\n"
        "And clearly better than with a wrong word: word, layer 1, head 3."
    )


def test_what_a_dot_hits_is_said_of_all_and_of_what_it_misses():
    points = count_hits(hand_made_cases())
    in_the_middle = points.targets[:, 1, 1]
    assert points.constant_hits.tolist() == in_the_middle.tolist()
    everything = pointing.without_looking(points, seed=0)
    missed = pointing.without_looking(points.missed(), seed=0)
    assert (everything["num_cases"], everything["chance"]) == (240, 1 / 16)
    assert everything["constant_cell"]["accuracy"] == in_the_middle.mean()
    assert missed["num_cases"] == (~in_the_middle).sum()
    # Where the middle misses, the corner is the best dot.
    assert missed["constant_cell"]["accuracy"] == points.targets[~in_the_middle, 3, 3].mean()


def test_nothing_is_said_of_maps_where_a_dot_hits_everything():
    cases = hand_made_cases()
    in_the_middle = np.broadcast_to(np.arange(16).reshape(4, 4) == 5, cases.targets.shape)
    points = count_hits(dataclasses.replace(cases, targets=in_the_middle))
    assert pointing.without_looking(points.missed(), seed=0) == {
        "num_cases": 0,
        "chance": None,
        "constant_cell": None,
    }
    maps = pointing.map_numbers(points, points, seed=0)
    assert all(row["missed"] is None for row in maps)
    assert pointing.conclusion(maps) == (
        "The best constant cell misses no object that can be hit, so no map can do better."
    )
    assert "a random cell: none" in pointing_table(points)


def test_the_table_of_the_notebook_has_the_controls():
    lines = pointing_table(count_hits(hand_made_cases())).splitlines()
    by_map = {line[:26].strip(): line[26:].split() for line in lines}
    own, wrong, other, own_missed, other_missed = by_map[str(CENTRE)]
    assert own == wrong == other
    assert own_missed == other_missed == "0%"
    own, wrong, other, own_missed, other_missed = by_map[str(FOLLOWS)]
    assert (own, wrong, own_missed) == ("100%", "0%", "100%")
    assert float(other_missed[:-1]) < float(other[:-1]) < 50
    assert len(by_map[str(MapName(CLS, 1))]) == 4


def test_maps_of_other_videos_are_held_against_the_losses_of_this_one(videos, data_dir):
    run = untrained_run("retrieval", data_dir)
    probe = ModelProbe(run.model(), ProbeScore(run.experiment.task))
    first, second = [video for video in videos if video.picture == videos[0].picture][:2]
    alone = next(video for video in videos if video.picture != videos[0].picture)
    grid = probe.grid(first.frames)
    assert grid == GRID

    looked_at = [*look_at(probe, [first, alone, second])]
    own = faithfulness_by_video(looked_at, seed=0)
    others = faithfulness_by_video(looked_at, seed=0, of_other_videos=True)
    ablation = MapName("ablation")
    assert [*own[ablation]] == [video.video_id for video in (first, alone, second)]
    assert [*others[ablation]] == [first.video_id, second.video_id]
    assert [one.rank.correlation for one in own[ablation].values()] == pytest.approx([1.0] * 3)
    # Between two videos, each map is what the other loses: as far as they agree they do so both ways.
    one_way, other_way = (one.rank.correlation for one in others[ablation].values())
    assert one_way == pytest.approx(other_way)
    assert one_way < 0.99


def faithfulness(*, chance: float, num_moves: int, loss: float) -> MapFaithfulness:
    """Return one whose misplaced maps lose 1 at most."""
    rank = RankFaithfulness(correlation=0.5, low=-0.5, high=0.5, chance=chance, num_moves=num_moves)
    return MapFaithfulness(rank=rank, loss=loss, random_loss=0.5, high_loss=1.0)


def test_passed_counts_the_videos_that_can_tell():
    both = faithfulness(chance=0.01, num_moves=100, loss=2.0)
    only_rank = faithfulness(chance=0.01, num_moves=100, loss=0.5)
    only_loss = faithfulness(chance=0.5, num_moves=100, loss=2.0)
    cannot_tell = faithfulness(chance=0.01, num_moves=6, loss=2.0)
    assert passed({"a": both, "b": only_rank, "c": only_loss, "d": cannot_tell}) == {
        "share_above_chance": pytest.approx(2 / 3),
        "share_costlier": 3 / 4,
        "share_borne_out": pytest.approx(1 / 3),
    }
    assert passed({"d": cannot_tell})["share_borne_out"] is None
    assert set(passed({}).values()) == {None}


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
        for control in (row["other_video"], row["untrained"], *filter(None, [row["wrong_word"]])):
            assert 0 <= control["low"] <= control["accuracy"] <= control["high"] <= 1
    assert numbers["constant_cell"]["accuracy"] == pytest.approx(
        1 - numbers["missed"]["num_cases"] / numbers["num_cases"]
    )
    (best,) = [row for row in numbers["agreement"] if row["kind"] == "ablation"]
    assert best["rank_correlation"] == pytest.approx(1.0)
    assert best["num_videos"] == 2
    assert set(best["other_video"]) == {"share_above_chance", "share_costlier", "share_borne_out"}
    run = numbers["run"]
    assert (run["split"], run["num_clips"], run["num_frames"], run["size"]) == ("test", 4, 1, 32)
    assert (run["consensus"], run["seed"], run["training_seed"]) == ("mean", 3, 0)
    assert "jax" in run["versions"]
    assert run["command"]


def test_what_cannot_play_is_refused(run_of, data_dir, tmp_path):
    game = pointing.Game(data_dir=str(data_dir))
    with pytest.raises(UserError, match="of open_ended_qa"):
        pointing.pointing(untrained_run("open_ended_qa", data_dir), game)
    with pytest.raises(UserError, match="--num-clips must be"):
        pointing.main([str(run_of("retrieval")), "--num-clips", "0"])
    with pytest.raises(UserError, match="must end in"):
        pointing.main([str(run_of("retrieval")), "--out", str(tmp_path / "a.txt")])
