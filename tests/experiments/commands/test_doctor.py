from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.cli import main


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "data"
    return prepare_synthetic_videos(path, num_train=3, num_validation=2, num_test=3, num_workers=0)


@pytest.fixture
def folder(tmp_path: Path, corpus: Path) -> Path:
    sample = next(path for path in sorted((corpus / "samples").rglob("*")) if path.suffix == ".mp4")
    folder = tmp_path / "videos"
    (folder / "below").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(sample.read_bytes())
    cv2.imwrite(str(folder / "below" / "b.jpg"), np.zeros((20, 30, 3), np.uint8))
    return folder


def exit_code(*arguments: str) -> int | str | None:
    try:
        main(["doctor", *arguments])
    except SystemExit as end:
        return end.code
    return 0


def columns_of(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def test_sound_files_give_exit_code_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["name", "verdict", "seconds"]
    assert lines[1].split()[:2] == ["a.mp4", "ok"]
    assert lines[2].split()[:2] == ["below/b.jpg", "ok"]
    assert lines[-1] == "2 examined: 2 ok, 0 damaged, 0 unreadable"


def test_bad_files_give_exit_code_1_with_their_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "new\nline\t<script>.mp4"
    (folder / name).write_bytes(b"")
    assert exit_code(str(folder), "--out", str(folder.parent / "table.json")) == 1
    output = capsys.readouterr().out
    assert "3 examined: 2 ok, 0 damaged, 1 unreadable\n" in output
    assert r"  unreadable: new\nline\t<script>.mp4: the file is empty" in output
    rows = json.loads((folder.parent / "table.json").read_text())
    assert [row["verdict"] for row in rows] == ["ok", "ok", "unreadable"]
    assert rows[2]["name"] == name


def test_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(str(folder / "a.mp4"), "--out", str(folder.parent / "table.tsv")) == 0
    assert len((folder.parent / "table.tsv").read_text().splitlines()) == 2


@pytest.mark.parametrize("columns", [80, 100, 132])
def test_the_table_fits_the_terminal(
    folder: Path, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / f"{'long ' * 30}.mp4").write_bytes(b"no video")
    (folder / "学习学习学习学习学习学习学习学习学习学习.mp4").write_bytes(b"no video")
    monkeypatch.setenv("COLUMNS", str(columns))
    exit_code(str(folder))
    table = capsys.readouterr().out.split("4 examined")[0].splitlines()
    assert len(table) == 5
    assert all(columns_of(line) <= columns for line in table)
    assert {line.index("ok") for line in table if " ok " in line} == {table[0].index("verdict")}


def test_a_prepared_corpus_is_examined_again(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(str(corpus)) == 0
    assert "8 examined: 8 ok" in capsys.readouterr().out


def test_videos_of_a_damaged_data_directory_are_unreadable(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(corpus, tmp_path / "data")
    (path,) = folder.rglob("*.array_record*")
    os.truncate(path, 5000)
    assert exit_code(str(folder)) == 1
    output = capsys.readouterr().out
    assert "8 examined: 0 ok, 0 damaged, 8 unreadable\n" in output
    assert f"  unreadable: test_00002: its record in {path} cannot be read (" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["missing"],
        ["empty"],
        ["empty", "--out", "missing/table.tsv"],
        ["in/a.mp4", "--out", "a.csv"],
        ["in/a.mp4", "--out", "in/folder.tsv"],
    ],
)
def test_mistakes_give_exit_code_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"not examined")
    (tmp_path / "in" / "folder.tsv").mkdir()
    assert exit_code(*arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("clipbert: ")
    assert not said.out
