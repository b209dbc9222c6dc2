from __future__ import annotations

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.own_table import OwnTable
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion
from data_pipelines.annotations.table import read_any_table, read_table


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("video,caption\na,a cat\n", Caption(id="caption_000002", video_id="a", text="a cat")),
        (
            "video,question,answer\na,who?,cat\n",
            OpenQuestion(id="question_000002", video_id="a", question="who?", answer="cat"),
        ),
        (
            "id,video,question,a1,a2,a3,answer\nx,a,who?,dog,cat,ox,1\n",
            MultipleChoice(
                id="x", video_id="a", question="who?", options=("dog", "cat", "ox"), answer_index=1
            ),
        ),
        (
            "video,question,count\na,how often?,3\n",
            Count(id="question_000002", video_id="a", question="how often?", count=3),
        ),
    ],
)
def test_columns_tell_what_it_is_a_table_of(write, text, record):
    (row,) = read_any_table(write("table.csv", text))
    assert row.record("a") == record


def test_options_of_json_lines_and_their_text_as_answer(write):
    line = {"video": "a", "question": "", "options": ["0", "1"], "answer": "1", "split": "val"}
    (row,) = read_any_table(write("table.jsonl", [line]))
    assert (row.record("a").answer_index, row.split) == (1, "validation")


@pytest.mark.parametrize(("answer", "position"), [(1, 1), ("1", 0), ("3", 2), (0, 0), ("0", 0)])
def test_a_number_of_json_is_a_position_and_a_text_an_option(write, answer, position):
    line = {"video": "a", "question": "how many?", "options": ["1", "2", "3"], "answer": answer}
    (row,) = read_any_table(write("table.jsonl", [line]))
    assert row.record("a").answer_index == position


@pytest.mark.parametrize(("options", "position"), [("5,6", 1), ("0,1", 1)])
def test_a_position_of_csv_counts_where_it_can_be_nothing_else(write, options, position):
    (row,) = read_any_table(write("table.csv", f"video,question,a1,a2,answer\na,how many?,{options},1\n"))
    assert row.record("a").answer_index == position


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "video,question,a1,a2,answer\na,how many?,1,2,1\n",
            "line 2: answer 1 is an option and also the position of '2'; write JSON lines",
        ),
        ("video,question\na,who?\n", "lacks answer; found: video, question; needed: video, question, answer"),
        ("video,question,count\na,who?,many\n", "line 2: count must be a whole number, not 'many'"),
        ("video,question,a1,a2,answer\na,who?,x,y,2\n", "line 2: answer must be an option or a position"),
        ("video,question,a1,a2,answer\na,who?,x,,0\n", "line 2 has an empty option"),
        ("video,question,a1,answer\na,who?,x,0\n", "line 2: options must be a list of two"),
        ("video,question,answer\na,,cat\n", "line 2 has an empty question"),
        ("video,words\na,b\n", "lacks caption; found: video, words; needed: video, caption"),
    ],
)
def test_what_cannot_be_understood_is_named(write, text, said):
    with pytest.raises(UserError, match=said):
        read_any_table(write("table.csv", text))


def test_kinds_are_not_mixed(write):
    lines = [{"video": "a", "caption": "x"}, {"video": "a", "question": "x", "answer": "y"}]
    with pytest.raises(UserError, match="mixes Caption and OpenQuestion lines"):
        read_any_table(write("table.jsonl", lines))


def test_questions_are_no_captions(write):
    with pytest.raises(UserError, match="is a table of questions"):
        read_table(write("table.csv", "video,question,answer\na,who?,cat\n"))


def test_a_table_of_questions_as_a_dataset(write):
    text = "video,question,answer,split\na.mp4,who?,cat,train\nb.mp4,who?,cat,train\nc.mp4,who?,dog,test\n"
    read = OwnTable(table=write("table.csv", text), num_answers=5).read()
    assert {split: len(records) for (_, split), records in read.records.items()} == {"train": 2, "test": 1}
    assert read.answers == {OpenQuestion: ("cat",)}
    assert "test: 1 of 1 answers (100.0 %) are not among these, always count as wrong" in read.facts
    with pytest.raises(UserError, match="no column `split`"):
        OwnTable(table=write("table.csv", "video,caption\na,b\n")).read()
    overlap = "video,caption,split\na,x,train\na,y,test\n"
    with pytest.raises(UserError, match="video 'a' is in train and in test"):
        OwnTable(table=write("table.csv", overlap)).read()
