from __future__ import annotations

import itertools
from collections import Counter

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations import vqa_answers
from data_pipelines.annotations.answers import (
    at_least,
    most_frequent,
    question_vocabulary,
    read_ans2label,
)
from data_pipelines.annotations.records import Caption, OpenQuestion
from data_pipelines.annotations.store import (
    read_answers,
    read_records,
    records_path,
    write_answers,
    write_records,
)
from data_pipelines.annotations.vqa_answers import normalize_answer, score_answers


def question(id_: str, answer: str) -> OpenQuestion:
    return OpenQuestion(id=id_, video_id="v", question="what ?", answer=answer)


def test_frequent_answers_come_first_and_ties_by_alphabet():
    answers = ["dog", "cat", "cat", "ant", "dog", "bee"]
    assert most_frequent(answers, 3) == ("cat", "dog", "ant")
    assert at_least(answers, 2) == ("cat", "dog")


def test_labels_of_a_file_are_kept(write):
    assert read_ans2label(write("ans2label.json", {"cat": 1, "dog": 0, "": 2})) == ("dog", "cat", "")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"cat": 0, "dog": 2}, "2 labels from 0 to 2, but none is 1"),
        ({"cat": 0, "dog": 0}, "gives label 0 to two answers"),
        ({"cat": "0"}, "must be one JSON object such as"),
        (["cat", "dog"], "must be one JSON object such as"),
    ],
)
def test_labels_that_are_no_permutation_are_refused(write, labels, said):
    with pytest.raises(UserError, match=said):
        read_ans2label(write("ans2label.json", labels))


def test_a_sample_of_labels_is_taken_on_request(write):
    path = write("ans2label.json", {"cat": 7, "dog": 2})
    assert read_ans2label(path, allow_partial=True) == ("dog", "cat")


def test_answers_outside_of_the_vocabulary_are_counted():
    records = {
        (OpenQuestion, "train"): [question("0", "cat"), question("1", "cat"), question("2", "dog")],
        (OpenQuestion, "test"): [
            question("3", "dog"),
            question("4", "cat"),
            question("5", "owl"),
            question("6", "owl"),
        ],
    }
    answers, lines = question_vocabulary(records, None, 1, allow_partial=False)
    assert answers == ("cat",)
    assert "train: 1 of 3 answers (33.3 %) are not among these, not trained on" in lines
    assert "test: 3 of 4 answers (75.0 %) are not among these, always count as wrong" in lines
    with pytest.raises(UserError, match="give --train or --ans2label"):
        question_vocabulary(records | {(OpenQuestion, "train"): []}, None, 1, allow_partial=False)


def test_scores_are_those_of_leaving_one_person_out():
    answers = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"]
    # The letter a would be an article.
    answers = [f"{answer}{answer}" for answer in answers]
    scores = score_answers(answers)
    for answer in set(answers):
        subsets = itertools.combinations(answers, 9)
        mean = sum(min(1, Counter(subset)[answer] / 3) for subset in subsets) / 10
        assert scores[answer] == pytest.approx(mean, abs=1e-4)
    assert scores == {"aa": 1.0, "bb": 0.9, "cc": 0.6, "dd": 0.3}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two.", "2"), ("a red car", "red car"), ("dont", "don't"), ("yes, it is", "yes it is"),
        ("1.5", "1.5"), ("10,000", "10000"), ("Sailboats.", "sailboats"), ("blue/white", "blue white"),
        ("none", "0"), ("", ""), ("12 oclock", "12 o'clock"), ("someones", "someone's"), ("hed", "he'd"),
        ("hed've", "he'd've"), ("he'dve", "he'd've"), ("hedve", "hedve"), ("yalld've", "yalld've"),
        ("ow's'at", "'ow's'at"), ("twas", "'twas"), ("somebody'd", "somebodyd"), ("Im", "im"),
        ("thatd", "thatd"), ("a\tdog\n", "dog"), ("x/-b c-d", "x b c d"), ("x- b c-d", "x b cd"),
        ("A. B.C", "bc"),
    ],
)  # fmt: skip
def test_answers_are_spelt_as_the_official_evaluation_does(answer, expected):
    assert normalize_answer(answer) == expected


def test_every_contraction_has_a_spelling_for_each_apostrophe():
    """The official table has 114 entries that change a word in lower case."""
    assert len(vqa_answers._CONTRACTION_OF) == 114


def test_answers_are_stored_beside_their_kind(tmp_path):
    write_answers(tmp_path, OpenQuestion, ("dog", "café"))
    assert read_answers(tmp_path, OpenQuestion) == ("dog", "café")
    path = tmp_path / "annotations" / "open_questions" / "answers.json"
    path.write_text('["dog", "dog"]')
    with pytest.raises(UserError, match="not a list of different answers"):
        read_answers(tmp_path, OpenQuestion)
    with pytest.raises(UserError, match="no answer vocabulary"):
        read_answers(tmp_path, Caption)


def test_records_with_one_id_are_refused(tmp_path):
    captions = [Caption(id=i, video_id="v", text="x") for i in ("1", "2", "1")]
    write_records(records_path(tmp_path, Caption, "train"), captions)
    with pytest.raises(UserError, match=r"lines 1 and 3 have the same id '1'"):
        read_records(tmp_path, Caption, "train")
