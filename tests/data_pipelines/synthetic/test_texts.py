from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from data_pipelines.annotations.vqa_answers import normalize_answer
from data_pipelines.synthetic.image_corpus import _plan_split as plan_images
from data_pipelines.synthetic.image_records import image_records
from data_pipelines.synthetic.texts import (
    Level,
    all_events,
    balanced,
    event_text,
    num_sets,
    open_answers,
    soft_answers,
    vocabulary,
)
from data_pipelines.synthetic.video_corpus import _plan_split as plan_videos
from data_pipelines.synthetic.video_records import video_records
from data_pipelines.tokenizer import Tokenizer

LEVELS = ("easy", "medium", "hard")


@pytest.mark.parametrize(
    ("level", "num_events", "pattern"),
    [
        ("easy", 10, r"a \w+"),
        ("medium", 42, r"a \w+ \w+"),
        ("hard", 126, r"a \w+ \w+ (glows|doubles|splits)"),
    ],
)
def test_levels_say_more_and_more(level, num_events, pattern):
    texts = {event_text(event) for event in all_events(level)}
    assert len(texts) == num_events
    assert all(re.fullmatch(pattern, text) for text in texts)


def test_one_object_does_one_thing():
    assert [num_sets("hard", size) for size in (1, 2)] == [126, 126 * (126 - 3) // 2]


def texts_of(level: Level) -> set[str]:
    """Return all captions, questions and answers of some videos and images."""
    texts = set()
    for kinds in (
        video_records(plan_videos("train", level, 300, seed=5), "train", level),
        image_records(plan_images("train", level, 600, seed=5), "train", level),
    ):
        for record in (record for records in kinds.values() for record in records):
            texts |= {getattr(record, name, "") for name in ("text", "question", "answer")}
            texts |= {*getattr(record, "options", ()), *getattr(record, "answer_scores", ())}
    return texts


@pytest.mark.parametrize("level", LEVELS)
def test_a_space_before_punctuation_changes_no_token(level):
    """Earlier versions wrote "a drop , a moon and a ball": their data and models say the same."""
    texts = texts_of(level)
    assert not [text for text in texts if re.search(r" [,?:]", text)]
    tokenizer = Tokenizer(vocabulary(level))
    apart = [re.sub(r"([,?:])", r" \1", text) for text in texts]
    np.testing.assert_array_equal(tokenizer.encode(apart, 40)[0], tokenizer.encode([*texts], 40)[0])


@pytest.mark.parametrize("level", LEVELS)
def test_the_vocabulary_has_every_word_and_no_other(level):
    """Whole words, so that texts are short; none is spelt in pieces, none is unknown."""
    tokens = vocabulary(level)
    tokenizer = Tokenizer(tokens)
    assert len(tokens) < 256
    said = {token for text in texts_of(level) for token in tokenizer.split(text)}
    assert "[UNK]" not in said
    assert not [token for token in said if token.startswith("##")]
    assert {token for token in tokens if len(token) > 1 and token.isalpha()} <= said


@pytest.mark.parametrize("level", LEVELS)
def test_answers_are_different_and_spelt_as_scores_spell_them(level):
    for answers in (open_answers(level), soft_answers(level)):
        assert len(set(answers)) == len(answers)
        assert [normalize_answer(answer) for answer in answers] == list(answers)
    assert soft_answers(level)[:5] == ("yes", "no", "1", "2", "3")
    assert set(open_answers(level)) <= set(soft_answers(level))


def test_balanced_values_are_equally_frequent_in_random_order():
    rng = np.random.default_rng(0)
    drawn = balanced("abc", 11, rng)
    assert sorted(Counter(drawn).values()) == [3, 4, 4]
    assert drawn != balanced("abc", 11, rng)
