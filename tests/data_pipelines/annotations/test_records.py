from __future__ import annotations

import dataclasses
import json

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.clipbert_jsonl import ClipbertJsonl
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion
from data_pipelines.annotations.store import read_records, records_path
from data_pipelines.annotations.vqa import Vqa

GOOD = {
    Caption: Caption(id="0", video_id="v", text="t"),
    MultipleChoice: MultipleChoice(id="0", video_id="v", question="", options=("a", "b"), answer_index=1),
    OpenQuestion: OpenQuestion(id="0", video_id="v", question="q", answer="a"),
    SoftQuestion: SoftQuestion(id="0", video_id="v", question="q", answer_scores={"a": 1.0, "": 0.3}),
    Count: Count(id="0", video_id="v", question="q", count=0),
}


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (Caption, {"text": " "}, "a bad caption: text is empty; correct it or remove the line"),
        (
            MultipleChoice,
            {"options": []},
            r"a bad multiple choice: options must be two texts or more, not \[\]",
        ),
        (MultipleChoice, {"options": ["a"]}, r"two texts or more, not \[\"a\"\]"),
        (MultipleChoice, {"options": ["a", ""]}, r"options\[1\] is empty"),
        (MultipleChoice, {"answer_index": 2}, "answer_index must be from 0 to 1, not 2"),
        (MultipleChoice, {"answer_index": -1}, "from 0 to 1, not -1"),
        (OpenQuestion, {"question": ""}, "a bad open question: question is empty"),
        (OpenQuestion, {"answer": "\t"}, "answer is empty"),
        (SoftQuestion, {"question": ""}, "a bad soft question: question is empty"),
        (SoftQuestion, {"answer_scores": {"a": 0.0}}, "score of 'a' must be above 0 and at most 1, not 0.0"),
        (SoftQuestion, {"answer_scores": {"a": 1.5}}, "not 1.5"),
        (SoftQuestion, {"answer_scores": {"a": float("nan")}}, "not NaN"),
        (Count, {"question": ""}, "a bad count: question is empty"),
        (Count, {"count": -1}, "count must be a whole number from 0 on, not -1"),
    ],
)
def test_bad_records_are_refused_with_file_and_line(kind, change, said, tmp_path):
    good = dataclasses.asdict(GOOD[kind])
    path = records_path(tmp_path, kind, "train")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | {"id": "1"} | change) + "\n")
    with pytest.raises(UserError, match=rf"train.jsonl line 2 is .*{said}"):
        read_records(tmp_path, kind, "train")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Caption, {"text": None}),
        (MultipleChoice, {"options": "ab"}),
        (MultipleChoice, {"answer_index": "b"}),
        (SoftQuestion, {"answer_scores": {"a": True}}),
        (SoftQuestion, {"answer_scores": ["a"]}),
        (Count, {"count": 1.5}),
    ],
)
def test_values_of_another_type_are_refused_with_file_and_line(kind, change, tmp_path):
    """While tests run, a checker of types may be faster than the record; it says so in other words."""
    path = records_path(tmp_path, kind, "train")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(dataclasses.asdict(GOOD[kind]) | change) + "\n")
    with pytest.raises(UserError, match=r"train.jsonl line 1 is (a bad|no) "):
        read_records(tmp_path, kind, "train")


@pytest.mark.parametrize("kind", GOOD)
def test_good_records_come_back(kind, tmp_path):
    path = records_path(tmp_path, kind, "train")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(dataclasses.asdict(GOOD[kind])) + "\n")
    assert read_records(tmp_path, kind, "train") == [GOOD[kind]]


def test_answers_may_be_withheld():
    assert SoftQuestion(id="0", video_id="v", question="q", answer_scores={}).answer_scores == {}


def test_bad_originals_are_named_with_their_line(write):
    choice = {"gif_name": "g", "question": "why", "options": ["a"], "answer": 0}
    with pytest.raises(
        UserError, match=r"t.jsonl line 1: `options` must be two texts or more, not \[\"a\"\]"
    ):
        ClipbertJsonl(task="multiple_choice", train=write("t.jsonl", [choice])).read()
    count = {"gif_name": "g", "question": "how often", "answer": -1}
    with pytest.raises(UserError, match=r"t.jsonl line 1: `answer` must be a count, not -1"):
        ClipbertJsonl(task="count", train=write("t.jsonl", [count])).read()


@pytest.mark.parametrize("answers", [[], [{"answer": "so"}]])
def test_vqa_scores_need_answers_of_more_than_one(write, answers):
    questions = {"questions": [{"image_id": 1, "question": "Why?", "question_id": 1000}]}
    annotations = {"annotations": [{"question_id": 1000, "answers": answers}]}
    train = (write("q.json", questions), write("a.json", annotations))
    with pytest.raises(UserError, match=r"a.json: `annotations` element 1: `answers` must be"):
        Vqa(train=train, allow_partial=True).read()
