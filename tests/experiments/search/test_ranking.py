"""Videos are ranked as prediction scores them, and what is known is not scored again."""

import errno
import os
import re

import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.prediction import match_entries, predict_clips
from data_pipelines.clips import sample_clips
from data_pipelines.decoding.examine import examine_video
from experiments.reports.words import clip_times
from experiments.search import scores
from experiments.search.lines import cost_line
from experiments.search.model import SearchModel
from experiments.search.ranking import rank
from tests.experiments.untrained import untrained_run

from .conftest import NUM_CLIPS

TEXTS = ["a ball", "a star and a moon, a leaf"]


def predicted(model, folder, name):
    """Return what `clipbert predict` says of a file."""
    run = model.run
    frames = sample_clips(examine_video(folder / name), run.experiment.data, num_clips=NUM_CLIPS).frames
    found = predict_clips(run.scorer, run.experiment.task, frames, *run.encode_texts(TEXTS))
    return match_entries(found, TEXTS)


def test_probabilities_are_those_of_prediction(search, model, folder):
    ranked = rank(search(), model, TEXTS)
    assert ranked.num_videos == 3
    assert ranked.num_scored == 6
    expected = {name: predicted(model, folder, name) for name in ("a.mp4", "b.MP4", "sub/c.mp4")}
    for number, found in enumerate(ranked.rankings):
        assert found.text == TEXTS[number]
        by_name = {name: matches[number] for name, matches in expected.items()}
        assert len({round(match["probability"], 3) for match in by_name.values()}) == 3, (
            "they can be told apart"
        )
        order = sorted(by_name, key=lambda name: -by_name[name]["probability"])
        assert [hit.name for hit in found.hits] == order
        for hit in found.hits:
            match = by_name[hit.name]
            assert hit.probability == pytest.approx(match["probability"], abs=2e-3)
            assert hit.clip_probabilities == pytest.approx(match["clip_probabilities"], abs=2e-3)
            assert match["clip_probabilities"][hit.best_clip] == pytest.approx(
                max(match["clip_probabilities"]), abs=2e-3
            )


def test_only_what_is_new_is_scored(search, model, folder, videos):
    index = search()
    first = rank(index, model, TEXTS[:1])
    assert first.num_scored == 3
    unloaded = SearchModel(folder / "nowhere")
    again = rank(search(), unloaded, [f" {TEXTS[0]} ", TEXTS[0]], top=2)
    assert again.num_scored == 0
    assert again.rankings[0].hits == first.rankings[0].hits[:2]
    (folder / "b.MP4").write_bytes(videos[3])
    both = rank(search(), model, TEXTS)
    assert both.num_scored == 1 + 3
    hits = {hit.name: hit for hit in both.rankings[0].hits}
    assert {hit.name for hit in first.rankings[0].hits} == hits.keys()
    assert [hits[hit.name] == hit for hit in first.rankings[0].hits if hit.name != "b.MP4"] == [True, True]


def test_files_of_the_same_content_are_scored_once(search, model, folder):
    (folder / "copy.mp4").write_bytes((folder / "a.mp4").read_bytes())
    ranked = rank(search(), model, TEXTS[:1])
    assert ranked.num_scored == 3
    assert ranked.num_videos == 4


def test_the_cost_is_of_what_was_scored(search, folder, data_dir):
    model = SearchModel.of(untrained_run("retrieval", data_dir, scale=0.5))
    (folder / "copy.mp4").write_bytes((folder / "a.mp4").read_bytes())
    index = search(model=model)

    def said(*texts):
        return cost_line(index, rank(index, model, texts), 0.0)

    pairs = "pairs of a clip and text scored in"
    assert re.search(rf"clips: 9 {pairs} [\d.]+ s with compilation, 3 of copies; index", said("a ball"))
    both = said("a ball", "a star")
    assert re.search(rf"clips: 9 {pairs} [\d.]+ s \([\d,]+ a second\), 9 known, 6 of copies; index", both)
    assert re.search(rf"clips: 0 {pairs} [\d.]+ s, 9 known, 3 of copies; index 0.00 s$", said("a star"))


def test_texts_that_are_not_read_as_meant_are_noted_each_time(search, model):
    text = "a giraffe " * 8
    for _ in range(2):
        (found,) = rank(search(), model, [text]).rankings
        assert len(found.notes) == 2
        assert "giraffe" in found.notes[1]


def test_empty_texts_are_refused(search, model):
    for texts in ([], [" "], ["a ball", ""], ["a ball", "\u200b"], ["\ufffd \u00ad"]):
        with pytest.raises(UserError, match="give one or more texts"):
            rank(search(), model, texts)
    with pytest.raises(UserError, match=r"the text caf\\udce9 is not UTF-8"):
        rank(search(), model, ["a ball", "caf\udce9"])


def test_the_oldest_scores_make_room(search, model, monkeypatch):
    index, files = search(), []
    for seconds, text in enumerate(["a ball", "a star"]):
        rank(index, model, [text])
        (new,) = set((index.root / "scores").iterdir()) - set(files)
        os.utime(new, (seconds, seconds))
        files.append(new)
    monkeypatch.setattr(scores, "MAX_BYTES", 2 * files[0].stat().st_size)
    assert rank(index, model, ["a moon"]).num_scored == 3
    assert [file.exists() for file in files] == [False, True]


@pytest.mark.parametrize(
    "trouble", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.ENOSPC, "No space")]
)
def test_scores_that_cannot_be_kept_cost_no_search(search, model, monkeypatch, capsys, trouble):
    def refuse(path, data):
        raise trouble

    index = search()
    monkeypatch.setattr(scores, "write_whole", refuse)
    ranked = rank(index, model, TEXTS)
    assert [len(ranking.hits) for ranking in ranked.rankings] == [3, 3]
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("scores are not kept: ")] == [
        f"scores are not kept: {trouble}"
    ]


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(0.0, 0.5), (1.96, 2.0)], ["0:00.0-0:00.5", "0:02.0"]),
        ([(0.0, 0.4), (65.2, 66.1)], ["0:00", "1:05-1:06"]),
        ([(59.0, 60.0), (3599.0, 3600.0)], ["0:00:59-0:01:00", "0:59:59-1:00:00"]),
    ],
)
def test_moments_are_said_as_on_the_page_of_a_probe(spans, said):
    assert clip_times(spans) == said
