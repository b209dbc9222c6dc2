from __future__ import annotations

import collections
import json
import re
from pathlib import Path

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption, Count, SoftQuestion
from data_pipelines.annotations.store import SPLITS, read_answers, read_records
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.decoding.decode import read_frames
from data_pipelines.synthetic.drawing import OBJECTS, Event
from data_pipelines.synthetic.image import ImagePlan, make_image
from data_pipelines.synthetic.image_corpus import _plan_split, prepare_synthetic_images
from data_pipelines.synthetic.image_records import image_records
from data_pipelines.synthetic.texts import event_text, object_name
from experiments.cli import main

LEVELS = ("easy", "medium", "hard")
SIZES = {"num_train": 12, "num_validation": 4, "num_test": 40}


@pytest.fixture(scope="module")
def images_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_synthetic_images(tmp_path_factory.mktemp("images") / "data", num_workers=0, **SIZES)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixels_of(corpus, video_id: str) -> np.ndarray:
    video = corpus.read(video_id)
    return read_frames(video.data, np.array([0]), video.index)[0].astype(int)


def objects_in(pixels: np.ndarray) -> list[str]:
    """Find the objects by colour, from left to right, independently of how they were drawn."""
    where = {name: np.nonzero(np.abs(pixels - rgb).max(-1) < 12) for name, rgb in OBJECTS.items()}
    return sorted((n for n in where if len(where[n][1]) > 40), key=lambda name: where[name][1].mean())


def right_answer(question: SoftQuestion) -> str:
    return max(question.answer_scores, key=lambda answer: question.answer_scores[answer])


def test_bytes_depend_on_the_seed_alone(images_dir, tmp_path):
    again = prepare_synthetic_images(tmp_path / "workers", num_workers=2, **SIZES)
    assert files_below(again) == files_below(images_dir)
    other = prepare_synthetic_images(tmp_path / "seed", num_workers=0, seed=1, **SIZES)
    assert open_corpus(other).read("test_00000").data != open_corpus(images_dir).read("test_00000").data
    assert (other / "vocab.txt").read_bytes() == (images_dir / "vocab.txt").read_bytes()


def test_the_vocabulary_is_that_of_the_videos(images_dir, data_dir):
    assert (images_dir / "vocab.txt").read_bytes() == (data_dir / "vocab.txt").read_bytes()


def test_no_image_is_there_twice(images_dir):
    corpus = open_corpus(images_dir)
    assert len(corpus) == sum(SIZES.values())
    assert len({corpus.read(video_id).data for video_id in corpus.ids}) == len(corpus)


def test_captions_name_what_the_image_shows(images_dir):
    corpus = open_corpus(images_dir)
    captions = read_records(images_dir, Caption, "test")
    assert len(captions) == 80
    for caption in captions:
        named = set(re.findall(r"\w+", caption.text)) & set(OBJECTS)
        assert named == set(objects_in(pixels_of(corpus, caption.video_id))), caption
    texts = collections.defaultdict(set)
    for caption in captions:
        texts[caption.video_id].add(caption.text)
    assert all(len(of_image) == 2 for of_image in texts.values())


def test_questions_are_answered_by_the_pixels(images_dir):
    corpus = open_corpus(images_dir)
    for question in read_records(images_dir, SoftQuestion, "test"):
        shown = objects_in(pixels_of(corpus, question.video_id))
        words = question.question.removesuffix("?").split()
        if question.question_type == "is there a":
            expected = "yes" if words[3] in shown else "no"
        elif question.question_type == "how many":
            expected = str(len(shown))
        else:
            expected = {"right": shown[-1], "middle": shown[len(shown) // 2]}.get(words[-1], shown[0])
        assert right_answer(question) == expected, question
        assert question.answer_scores[expected] == 1.0


@pytest.mark.parametrize("level", LEVELS)
def test_answers_have_the_scores_of_ten_people(level):
    questions = image_records(_plan_split("train", level, 600, seed=3), "train", level)[SoftQuestion]
    dissent = collections.Counter(tuple(sorted(q.answer_scores.values()))[:-1] for q in questions)
    assert set(dissent) == {(), (0.3,), (0.6,)}
    assert 0.65 < dissent[()] / len(questions) < 0.75
    assert {q.answer_type for q in questions} == {"yes/no", "number", "other"}
    assert len({q.id for q in questions}) == len(questions)


@pytest.mark.parametrize("level", LEVELS)
def test_texts_alone_do_not_give_answers_away(level):
    plans = _plan_split("train", level, 600, seed=3)
    questions = image_records(plans, "train", level)[SoftQuestion]
    answers = {
        kind: [right_answer(q) for q in questions if q.answer_type == kind] for kind in ("yes/no", "number")
    }
    assert answers["yes/no"].count("yes") == 300
    assert collections.Counter(answers["number"]) == {"1": 150, "2": 300, "3": 150}
    of_place = collections.Counter(right_answer(q) for q in questions if q.question_type == "which object")
    names = {object_name(event) for plan in plans for event in plan.objects}
    assert max(of_place.values()) < 2 * sum(of_place.values()) / len(names)


@pytest.mark.parametrize("level", LEVELS)
def test_counts_are_of_the_listed_objects_that_are_there(level):
    plans = _plan_split("train", level, 400, seed=3)
    objects = {plan.video_id: {event_text(event) for event in plan.objects} for plan in plans}
    questions = image_records(plans, "train", level)[Count]
    assert len(questions) == 2 * len(plans)
    for question in questions:
        listed = re.split(", | and ", question.question.partition(": ")[2].removesuffix("?"))
        assert len(set(listed)) == 3
        assert len(objects[question.video_id] & set(listed)) == question.count
    shares = np.bincount([question.count for question in questions]) / len(questions)
    assert len(shares) == 4
    assert shares.max() < 0.45


@pytest.mark.parametrize("level", LEVELS)
def test_objects_are_different_and_sets_evenly_distributed(level):
    plans = _plan_split("test", level, 200, seed=3)
    assert all(len({object_name(event) for event in plan.objects}) == len(plan.objects) for plan in plans)
    times = collections.Counter(frozenset(plan.objects) for plan in plans)
    by_size = [[n for objects, n in times.items() if len(objects) == size] for size in (1, 2, 3)]
    assert list(map(sum, by_size)) == [50, 100, 50]
    if level == "easy":
        assert by_size[0] == [5] * 10
        assert (len(by_size[1]), set(by_size[1])) == (45, {2, 3})
    assert set(by_size[2]) == {1}


def test_objects_hardly_overlap_and_are_as_large_as_there_is_room():
    for number in range(30):
        plan = ImagePlan(video_id=str(number), seed=0, objects=(Event(shape="box"),) * 3)
        video = make_image(plan)
        pixels = read_frames(video.data, np.array([0]), video.index)[0].astype(int)
        is_box = np.abs(pixels - OBJECTS["box"]).max(-1) < 60
        side = video.index.width / 3 / 1.13 * 0.8  # of a box, if it fills its third
        assert is_box.sum() > 2.7 * (0.9 * side) ** 2
        assert is_box[:, 0].sum() == 0


def test_images_are_files_to_look_at(images_dir):
    samples = sorted((images_dir / "samples").iterdir())
    assert [path.name for path in samples] == ["test_00000.png", "test_00001.png", "test_00002.png"]
    assert samples[0].read_bytes() == open_corpus(images_dir).read("test_00000").data
    index = open_corpus(images_dir).read("test_00000").index
    assert (len(index.frame_times), index.duration) == (1, 0.0)


def test_what_was_built_is_written_down(images_dir):
    facts = json.loads((images_dir / "prepare.json").read_text())
    assert facts["num_videos"] == {"train": 12, "validation": 4, "test": 40}
    assert (facts["source"], facts["level"], facts["seed"]) == ("embedded images", "easy", 0)
    answers = read_answers(images_dir, SoftQuestion)
    for split in SPLITS:
        assert {a for q in read_records(images_dir, SoftQuestion, split) for a in q.answer_scores} <= {
            *answers
        }


def test_the_command_makes_the_same(images_dir, tmp_path, capsys):
    sizes = [f"--{name.replace('_', '-')}={count}" for name, count in SIZES.items()]
    main(["prepare", "demo_images", "--data-dir", str(tmp_path / "data"), "--num-workers", "0", *sizes])
    assert "56 images" in capsys.readouterr().out
    assert files_below(tmp_path / "data") == files_below(images_dir)


def test_impossible_requests_are_refused(tmp_path):
    with pytest.raises(UserError, match="--num-validation must be at least 1, not 0"):
        prepare_synthetic_images(tmp_path / "data", num_validation=0)
    with pytest.raises(UserError, match="--seed must be at least 0, not -1"):
        prepare_synthetic_images(tmp_path / "data", seed=-1)
    assert not list(tmp_path.iterdir())
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="data already exists"):
        prepare_synthetic_images(tmp_path / "data", num_workers=0)
