from __future__ import annotations

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.files import AnnotationEntry, read_json, read_objects, read_table, read_text


def test_marks_of_other_systems_are_tolerated(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b'\xef\xbb\xbfvideo_id,note\r\nvideo1,"a, b"\r\n\r\nvideo2,\xc3\xa9\r\n')
    rows = read_table(path, ["video_id"])
    assert [row.text("video_id") for row in rows] == ["video1", "video2"]
    assert [row.text("note") for row in rows] == ["a, b", "é"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('[{"a": "b"}]'.encode("utf-16"), "is UTF-16, not UTF-8"),
        (b'[{"a":\n "caf\xe9"}]', "line 2 is not UTF-8 text"),
        (b"\x1f\x8b\x08\x00\x00\x00", "is not a text file"),
        (b'[{"a": "b"}, {"a', "is truncated or damaged"),
        (b"video_id,sentence\nvideo1,x\n", "is it a table?"),
        (b'{"a": 1}\n{"a": 2}\n', "one object a line"),
    ],
)
def test_files_that_are_no_json_are_refused_with_the_cause(tmp_path, data, said):
    path = tmp_path / "annotations.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=said) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no list at .*gone\.txt"):
        read_text(tmp_path / "gone.txt", "list")


def test_lists_and_lines_of_objects_are_told_apart(write):
    as_list = read_objects(write("a.json", [{"a": 1}, {"a": 2}]))
    as_lines = read_objects(write("a.jsonl", [{"a": 1}, {"a": 2}]))
    assert [e.fields for e in as_list] == [e.fields for e in as_lines]
    assert as_lines[1].where.endswith("line 2")
    with pytest.raises(UserError, match="line 2 is not JSON"):
        read_objects(write("cut.jsonl", '{"a": 1}\n{"a": '))
    with pytest.raises(UserError, match="element 2 must be an object"):
        read_objects(write("b.json", [{"a": 1}, 2]))
    with pytest.raises(UserError, match="is empty"):
        read_objects(write("empty.json", "[]"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,words\nv,x\n", "lacks the columns video_id, sentence; found: name, words"),
        ('[{"video_id": 1}]', "this is JSON"),
        ("video_id,sentence\nv\n", "line 2 has 1 values for the 2 columns"),
        ("video_id,sentence\n", "has no rows"),
        ('video_id,sentence\nv,"open\n', "is a quote not closed"),
    ],
)
def test_tables_that_are_something_else_are_refused(write, text, said):
    with pytest.raises(UserError, match=said):
        read_table(write("table.csv", text), ["video_id", "sentence"])


def test_a_comma_table_for_a_tab_table_is_told(write):
    with pytest.raises(UserError, match="must be separated by tabs"):
        read_table(write("table.csv", "gif_name,question\na,b\n"), ["gif_name"], delimiter="\t")


def test_values_are_checked_where_they_stand():
    entry = AnnotationEntry(
        "file line 3", {"text": " a  b ", "none": "", "number": "7", "list": ["x", ""], "flag": True}
    )
    assert entry.text("text") == "a b"
    assert entry.integer("number") == 7
    for get, said in (
        (lambda: entry.text("gone"), "file line 3 has no `gone`"),
        (lambda: entry.text("none"), "empty `none`"),
        (lambda: entry.text("flag"), "`flag` must be text"),
        (lambda: entry.integer("text"), "`text` must be a whole number"),
        (lambda: entry.position("number", 5), "`number` must be from 0 to 4, not 7"),
        (lambda: entry.texts("list"), r"empty `list\[1\]`"),
        (lambda: entry.texts("text"), "a list of texts"),
    ):
        with pytest.raises(UserError, match=said):
            get()
