"""A file appears complete or not at all, whatever ends the write."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from clipbert_jax.atomic_files import is_unfinished, remove_unfinished, replacing, write_whole


def test_text_and_bytes_replace_what_was_there_and_make_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    for content, written in ((b"\xff", b"\xff"), ("é\n", "é\n".encode())):
        write_whole(path, content)
        assert path.read_bytes() == written
    assert list(path.parent.iterdir()) == [path]


def test_names_may_be_as_long_as_file_systems_allow(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".html")
    write_whole(path, "content")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_file_is_on_the_disk_before_it_has_its_name(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fsync, synced = tmp_path / "a.npy", os.fsync, list[int]()

    def note(number: int) -> None:
        assert not path.exists()
        synced.append(os.fstat(number).st_size)
        fsync(number)

    monkeypatch.setattr(os, "fsync", note)
    write_whole(path, b"12345", durable=durable)
    assert synced == [5] * durable


def test_writers_of_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder / "page.html")
    for content in ("first", "second"):
        write_whole(link, content)
        assert (folder / "page.html").read_text() == content
    assert link.is_symlink()
    assert sorted(tmp_path.rglob("*")) == [folder, folder / "page.html", link]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with contextlib.suppress(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_known_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("x")
        assert is_unfinished(temporary)
        shutil.copy(temporary, temporary.with_name(f".{path.name}.0123456789abcdef.tmp"))
        shutil.copy(temporary, temporary.with_name(f".{path.name}.7.tmp"))  # with a process's number, as once
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert not is_unfinished(path)
