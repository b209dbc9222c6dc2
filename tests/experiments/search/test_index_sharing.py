"""Several searches, folders and indexes get along with each other."""

import dataclasses
import threading

import pytest

from experiments.search import encoding
from experiments.search.folder import scan
from experiments.search.index import INDEX_NAME, Index
from experiments.search.place import locked

from .conftest import OPTIONS, silently


@pytest.fixture
def started(search):
    """Return a function that starts a search in a thread; it gives that thread, and where its index comes."""

    def start(log):
        found = []
        thread = threading.Thread(target=lambda: found.append(search(log=log)), daemon=True)
        thread.start()
        return thread, found

    return start


def test_two_searches_read_nothing_twice(search, started, read_names, monkeypatch):
    one_reads, other_waits = threading.Event(), threading.Event()
    read = encoding.read_clips

    def slow(item):
        one_reads.set()
        assert other_waits.wait(60)
        return read(item)

    monkeypatch.setattr(encoding, "read_clips", slow)
    thread, found = started(silently)
    assert one_reads.wait(60)
    lines = []

    def log(said):
        lines.append(said)
        other_waits.set()

    other = search(log=log)
    thread.join(60)
    assert len(lines) == 1
    assert lines[0].endswith("waiting for it")
    assert sorted(read_names) == ["a.mp4", "b.MP4", "c.mp4"]
    assert other.entries == found[0].entries
    assert other.changes.num_read == 0


def test_who_has_waited_looks_again(folder, videos, started):
    waits = threading.Event()
    place = folder / INDEX_NAME
    place.mkdir()
    with locked(place, silently):
        thread, found = started(lambda said: waits.set())
        assert waits.wait(60)
        (folder / "b.MP4").unlink()
        (folder / "new.mp4").write_bytes(videos[3])
    thread.join(60)
    assert sorted(found[0].entries) == ["a.mp4", "new.mp4", "sub/c.mp4"]


def test_two_folders_share_a_place(model, folder, videos, tmp_path, read_names):
    other = tmp_path / "other"
    other.mkdir()
    (other / "d.mp4").write_bytes(videos[3])
    options = dataclasses.replace(OPTIONS, place=tmp_path / "place")
    for _ in range(2):
        for path, names in ((folder, ["a.mp4", "b.MP4", "sub/c.mp4"]), (other, ["d.mp4"])):
            assert sorted(Index.open_or_update(model, path, options, log=silently).entries) == names
    assert len(read_names) == 4


def test_a_folder_that_is_moved_keeps_its_index(model, folder, search, tmp_path, read_names):
    search()
    moved = folder.rename(tmp_path / "moved")
    read_names.clear()
    explicit = dataclasses.replace(OPTIONS, place=moved / "sub" / ".." / INDEX_NAME)
    for options in (OPTIONS, explicit):
        assert len(Index.open_or_update(model, moved, options, log=silently).entries) == 3
    assert read_names == []


def test_no_index_finds_itself_or_another(search, folder):
    for place in (folder, folder / "one", folder / "two", folder / "sub"):
        for _ in range(2):
            index = search(dataclasses.replace(OPTIONS, place=place))
            assert [*index.entries][:2] == ["a.mp4", "b.MP4"]
            assert len(index.entries) == (2 if place.name == "sub" else 3)
    of_old_version = folder / "0123456789abcdef"
    of_old_version.mkdir()
    for name in ("about.json", "picture.jpg"):
        (of_old_version / name).write_bytes(b"")
    assert list(scan(folder, left_out=folder / "one").files) == ["a.mp4", "b.MP4", "sub/c.mp4"]
    (of_old_version / "about.json").unlink()
    assert len(scan(folder, left_out=folder / "one").files) == 4
