from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption, MultipleChoice, OpenQuestion
from data_pipelines.annotations.store import SPLITS, read_answers, read_records
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.decoding.decode import read_frames
from data_pipelines.synthetic.drawing import OBJECTS, Event
from data_pipelines.synthetic.texts import captions, num_sets
from data_pipelines.synthetic.video import VideoPlan, make_video
from data_pipelines.synthetic.video_corpus import _plan_split, prepare_synthetic_videos
from data_pipelines.synthetic.video_records import video_records
from data_pipelines.tokenizer import load_tokenizer


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def events_of(text: str) -> frozenset[str]:
    """Read a caption as a set of events: templates and order say nothing."""
    return frozenset(part.strip() for part in re.split(r",|\band\b|\balso\b|look:", text) if part.strip())


def test_bytes_depend_on_the_seed_alone(data_dir, tmp_path):
    sizes = {"num_train": 10, "num_validation": 5, "num_test": 12}
    again = prepare_synthetic_videos(tmp_path / "workers", num_workers=2, **sizes)
    assert files_below(again) == files_below(data_dir)
    other = prepare_synthetic_videos(tmp_path / "seed", num_workers=0, seed=1, **sizes)
    assert open_corpus(other).read("test_00000").data != open_corpus(data_dir).read("test_00000").data


def test_captions_name_what_the_video_shows(data_dir):
    """Find the objects by colour in decoded pixels, independently of how they were drawn."""
    corpus = open_corpus(data_dir)
    for caption in read_records(data_dir, Caption, "test"):
        video = corpus.read(caption.video_id)
        frames = read_frames(video.data, np.arange(0, len(video.index.frame_times), 3), video.index)
        pixels = frames.reshape(-1, 3).astype(int)
        shown = {
            name
            for name, rgb in OBJECTS.items()
            if (np.abs(pixels - rgb).max(-1) < 28).sum() > 8 * len(frames)
        }
        assert {f"a {name}" for name in shown} == events_of(caption.text), caption


def test_every_third_of_a_video_shows_one_event():
    events = tuple(Event(shape=name) for name in ("ball", "leaf", "box"))
    for number in range(4):
        video = make_video(VideoPlan(video_id=f"v{number}", seed=0, events=events))
        data, index = video.data, video.index
        frames = read_frames(data, np.arange(len(index.frame_times)), index).astype(int)
        third = index.frame_times / index.duration * 3
        for place, event in enumerate(events):
            rgb = OBJECTS[event.shape]
            is_shown = (np.abs(frames - rgb).max(-1) < 28).sum((1, 2)) > 8
            assert 0.5 / 3 <= is_shown.mean() <= 0.95 / 3
            assert ((third[is_shown] > place - 0.1) & (third[is_shown] < place + 1.1)).all()


def test_videos_are_of_many_kinds(data_dir):
    corpus = open_corpus(data_dir)
    indices = [corpus.read(video_id).index for video_id in corpus.ids]
    assert any(i.height > i.width for i in indices)
    assert len({(i.width, i.height) for i in indices}) > 3
    assert len({round(1 / np.diff(i.frame_times)[0], 3) for i in indices}) > 2
    assert all(4.0 <= i.duration <= 12.2 for i in indices)
    num_long_gops = sum(len(i.key_frames) == 1 for i in indices)
    assert 0 < num_long_gops < len(indices) / 2


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_test_captions_differ_as_sets_of_events(level):
    plans = _plan_split("test", level, 100, seed=3)
    rng = np.random.default_rng(0)
    texts = [c.text for plan in plans for c in captions(plan.video_id, plan.events, 1, rng)]
    assert len(texts) == 100
    assert len({events_of(text) for text in texts}) == 100
    assert all(len(events_of(text)) == 3 for text in texts)


def test_there_are_as_many_different_captions_as_is_said():
    plans = _plan_split("test", "easy", num_sets("easy", 3), seed=0)
    assert len({frozenset(plan.events) for plan in plans}) == 120


@pytest.mark.parametrize("level", ["easy", "hard"])
def test_questions_have_one_right_answer(level, tmp_path):
    data_dir = prepare_synthetic_videos(
        tmp_path / "data", level=level, num_train=4, num_validation=2, num_test=2, num_workers=0
    )
    tokenizer = load_tokenizer(data_dir / "vocab.txt")
    assert tokenizer.vocab_size < 256
    for split in SPLITS:
        events = {c.video_id: events_of(c.text) for c in read_records(data_dir, Caption, split)}
        for choice in read_records(data_dir, MultipleChoice, split):
            is_shown = [option in events[choice.video_id] for option in choice.options]
            assert is_shown == [i == choice.answer_index for i in range(5)]
            assert len(set(choice.options)) == 5
        for question in read_records(data_dir, OpenQuestion, split):
            texts = events[question.video_id]
            asked = set(re.findall(r"the ([\w ]+?)(?: and| do|\?)", question.question))
            if level == "hard":
                assert f"a {asked.pop()} {question.answer}" in texts
            else:
                assert {f"a {name}" for name in asked | {question.answer}} == texts
            assert "[UNK]" not in tokenizer.split(question.question + " " + question.answer)
            assert question.answer in read_answers(data_dir, OpenQuestion)


def test_texts_stay_as_they_are():
    """Whoever has made the corpus before gets the same videos and texts again."""
    of_kind = video_records(_plan_split("test", "easy", 100, seed=0), "test", "easy")
    assert of_kind[Caption][0].text == "a drop, a moon, and also a ball"
    assert of_kind[MultipleChoice][0].options == ("a heart", "a cross", "a ball", "a ring", "a box")
    assert of_kind[OpenQuestion][0].question == "which object appears besides the ball and the drop?"


def test_what_was_built_is_written_down(data_dir):
    facts = json.loads((data_dir / "prepare.json").read_text())
    assert facts["num_videos"] == {"train": 10, "validation": 5, "test": 12}
    assert (facts["source"], facts["level"], facts["seed"]) == ("embedded", "easy", 0)
    assert len(open_corpus(data_dir)) == 27


def test_impossible_requests_are_refused(tmp_path):
    for level, num_different in (("easy", 120), ("medium", 11480), ("hard", 309960)):
        message = f"--num-test {num_different + 1} is more than the {num_different} .* of level {level}"
        with pytest.raises(UserError, match=message):
            prepare_synthetic_videos(tmp_path / "data", level=level, num_test=num_different + 1)
    with pytest.raises(UserError, match="--num-train must be at least 1, not 0"):
        prepare_synthetic_videos(tmp_path / "data", num_train=0)
    with pytest.raises(UserError, match="--seed must be at least 0, not -1"):
        prepare_synthetic_videos(tmp_path / "data", seed=-1)
    assert not list(tmp_path.iterdir())


def test_a_few_test_videos_are_there_as_files(data_dir):
    corpus = open_corpus(data_dir)
    samples = sorted((data_dir / "samples").iterdir())
    assert [path.name for path in samples] == ["test_00000.mp4", "test_00001.mp4", "test_00002.mp4"]
    assert samples[0].read_bytes() == corpus.read("test_00000").data
