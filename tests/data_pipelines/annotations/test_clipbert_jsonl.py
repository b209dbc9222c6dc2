from __future__ import annotations

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.clipbert_jsonl import KIND_OF, ClipbertJsonl
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion

CASES = {
    "retrieval": (
        {"caption": "a cat", "clip_name": "video7", "sen_id": 12},
        Caption(id="12", video_id="video7", text="a cat"),
    ),
    "pretraining": (
        {"caption": "a cat", "coco_id": 17},
        Caption(id="train_000000", video_id="coco_000000000017", text="a cat"),
    ),
    "multiple_choice": (
        {"gif_name": "g_250", "question": "why", "options": ["a", "b"], "answer": "b", "qid": 3},
        MultipleChoice(id="3", video_id="g_250", question="why", options=("a", "b"), answer_index=1),
    ),
    "open_question": (
        {"video_id": "video7", "question": "why", "answer": "so", "answer_type": "what"},
        OpenQuestion(
            id="train_000000", video_id="video7", question="why", answer="so", question_type="what"
        ),
    ),
    "count": (
        {"gif_name": "g", "question": "how often", "answer": 3},
        Count(id="train_000000", video_id="g", question="how often", count=3),
    ),
    "vqa": (
        {"image_id": "COCO_val2014_000000000042.jpg", "question": "why", "question_id": 42000,
         "labels": {"so": 1, "no": 0.3}, "answer_type": "other"},
        SoftQuestion(id="42000", video_id="coco_000000000042", question="why",
                     answer_scores={"so": 1.0, "no": 0.3}, answer_type="other"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", KIND_OF)
def test_every_task(write, task):
    line, record = CASES[task]
    ans2label = write("ans2label.json", {"no": 1, "so": 0})
    read = ClipbertJsonl(task=task, train=write("train.jsonl", [line]), ans2label=ans2label).read()
    assert read.records == {(KIND_OF[task], "train"): [record]}
    assert read.answers == ({KIND_OF[task]: ("so", "no")} if task in ("open_question", "vqa") else {})


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        ("multiple_choice", {"answer": "c"}, "`answer` must be a whole number"),
        ("multiple_choice", {"answer": 2}, "from 0 to 1, not 2"),
        ("vqa", {"labels": {"so": 2}}, "scores from 0 to 1"),
        ("vqa", {"image_id": "cat.png"}, "a COCO image id"),
        ("retrieval", {"caption": ""}, "line 1 has an empty `caption`"),
    ],
)
def test_bad_lines_are_named(write, task, change, said):
    train = write("train.jsonl", [CASES[task][0] | change])
    with pytest.raises(UserError, match=said):
        ClipbertJsonl(task=task, train=train).read()


def test_open_questions_need_their_labels(write):
    with pytest.raises(UserError, match="give --ans2label"):
        ClipbertJsonl(task="open_question", train=write("t.jsonl", [CASES["open_question"][0]])).read()


def test_pairs_of_captions_keep_different_ids(write):
    lines = [CASES["retrieval"][0]] * 2
    records = ClipbertJsonl(task="retrieval", train=write("t.jsonl", lines)).read().records
    assert [record.id for record in records[Caption, "train"]] == ["12", "12_2"]
