"""What fails, waits or comes from somebody else costs the index nothing, and the user no file."""

import errno
import json
import os
import shutil

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.workers.isolation import Failure
from experiments.search import encoding
from experiments.search import folder as folder_module
from experiments.search import index as index_module
from experiments.search.folder import FileState, scan
from experiments.search.index import INDEX_NAME
from experiments.search.manifest import Manifest, ManifestEntry

from .conftest import NUM_CLIPS

CONTENT = "0123456789abcdef" * 4


def stored(index):
    return {path.name for path in (index.root / "videos").rglob("*") if path.is_file()}


@pytest.fixture
def unlisted(monkeypatch):
    """Return a function: from now on a folder of this name cannot be listed."""

    def refuse(name):
        scandir = os.scandir

        def refusing(path):
            if os.fspath(path).rstrip("/").endswith(name):
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return scandir(path)

        monkeypatch.setattr(folder_module.os, "scandir", refusing)

    return refuse


def test_a_folder_that_cannot_be_listed_keeps_its_place(
    search, folder, videos, unlisted, read_names, monkeypatch
):
    before = search()
    (folder / "new.mp4").write_bytes(videos[3])
    with monkeypatch.context():
        unlisted("/sub")
        index = search()
    assert sorted(index.entries) == ["a.mp4", "b.MP4", "new.mp4"]
    assert index.unreadable == {"sub/": "Permission denied"}
    assert index.changes.num_gone == 0
    assert stored(before) <= stored(index)
    read_names.clear()
    monkeypatch.undo()
    assert len(search().entries) == 4
    assert read_names == []


def test_a_folder_that_cannot_be_listed_itself_is_named(search, folder, unlisted):
    search()
    unlisted("/videos")
    with pytest.raises(UserError, match=r"videos cannot be listed \(Permission denied\)"):
        search()


def test_a_file_that_cannot_be_looked_at_keeps_its_place(search, folder, videos, read_names):
    search()
    (folder / "new.mp4").write_bytes(videos[3])
    kept = (folder / "a.mp4").rename(folder.parent / "a.mp4")
    (folder / "a.mp4").symlink_to("nowhere")
    index = search()
    assert list(index.unreadable) == ["a.mp4"]
    assert sorted(index.entries) == ["b.MP4", "new.mp4", "sub/c.mp4"]
    read_names.clear()
    kept.rename(folder / "a.mp4")
    assert len(search().entries) == 4
    assert read_names == []


def test_a_file_that_cannot_be_opened_keeps_what_is_known_of_it(search, folder, read_names, monkeypatch):
    search()
    os.utime(folder / "a.mp4", (1, 1))

    def failing(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(index_module, "content_of", failing)
        index = search()
    assert index.unreadable == {"a.mp4": "Permission denied"}
    assert sorted(index.entries) == ["b.MP4", "sub/c.mp4"]
    read_names.clear()
    assert len(search().entries) == 3
    assert read_names == []


def test_a_link_that_leads_to_itself_is_a_problem_of_its_own(folder):
    (folder / "round.mp4").symlink_to("round.mp4")
    (folder / "round").symlink_to("round")
    found = scan(folder, left_out=folder / INDEX_NAME)
    assert list(found.files) == ["a.mp4", "b.MP4", "sub/c.mp4"]
    assert found.problems == {"round.mp4": "Too many levels of symbolic links"}


def line(**changes):
    values = {"name": "a.mp4", "size": 1, "mtime_ns": 2, "content": CONTENT, "clip_seconds": [[0, 1], [1, 2]]}
    return json.dumps({**values, **changes})


@pytest.mark.parametrize(
    "strange",
    [
        line(content="../../../notes"),
        line(content=f"{CONTENT}\n"),
        line(content=CONTENT.upper()),
        line(content=7),
        line(clip_seconds=[[0, 1], [1, float("nan")]]),
        line(clip_seconds=[[0, 1], [1, 10**400]]),
        line(clip_seconds=[[0, 1], [1, "2"]]),
        line(clip_seconds=[[0, 1]]),
        line(clip_seconds=[]),
        line(reason="broken"),
        line(reason=["broken"], clip_seconds=[]),
        line(name=["a.mp4"]),
        line(size="1"),
        line(size=1.0),
        "[" * 100_000,
        "[1, 2]",
        "",
    ],
)
def test_lines_that_no_index_has_written_are_dropped(strange, tmp_path):
    path = tmp_path / "manifest.jsonl"
    good = [line(name="b.mp4"), line(name="c.mp4", reason="broken", clip_seconds=[])]
    path.write_text("".join(f"{one}\n" for one in (good[0], strange, good[1])))
    assert list(Manifest(path, 2).entries) == ["b.mp4", "c.mp4"]


def test_an_index_of_somebody_else_deletes_nothing(search, folder, videos, tmp_path):
    index = search()
    victims = [tmp_path / f"victim.{suffix}" for suffix in ("npy", "jpg", "strip")]
    for victim in victims:
        victim.write_text("mine")
    with (index.root / "manifest.jsonl").open("a") as file:
        file.write(line(content=str(tmp_path / "victim"), clip_seconds=[[0, 1]] * 3) + "\n")
    (folder / "new.mp4").write_bytes(videos[3])
    assert len(search().entries) == 4
    assert all(victim.is_file() for victim in victims)


def test_what_a_kill_has_left_goes_with_the_next_change(search, folder, videos):
    index = search()
    below = index.root / "videos" / CONTENT[:2]
    below.mkdir(exist_ok=True)
    left = [below / f"{CONTENT}.npy", below / f"{CONTENT}.strip", below / f".{CONTENT}.npy.7.tmp"]
    left.append(index.root / ".manifest.jsonl.7.tmp")
    for path in [*left, below / "mine.txt"]:
        path.write_bytes(b"")
    search()
    assert all(path.exists() for path in left), "nothing has changed, so nothing is looked through"
    (folder / "new.mp4").write_bytes(videos[3])
    index = search()
    assert not any(path.exists() for path in left)
    assert (below / "mine.txt").exists()
    assert len(stored(index)) == 2 * 4 + 1


def test_it_is_said_when_files_are_tried_again(search, folder, monkeypatch):
    (folder / "broken.mp4").write_bytes(b"no video")
    assert search().when_tried_again.startswith("tried again when they change")
    monkeypatch.setattr(encoding, "read_clips", lambda item: Failure("took longer than 20 s", may_pass=True))
    os.utime(folder / "a.mp4", (1, 1))
    with (folder / "a.mp4").open("ab") as file:
        file.write(b"more")
    index = search()
    assert index.when_tried_again.startswith("1 of them tried again in each search, the others when")
    (folder / "broken.mp4").unlink()
    assert search().when_tried_again == "tried again in each search"


def test_a_run_that_may_not_be_read_is_no_matter_of_the_index(search, folder, model, monkeypatch):
    config = str(folder.parent / "run" / "config.json")

    def failing(place):
        raise PermissionError(errno.EACCES, "Permission denied", config)

    monkeypatch.setattr(model, "facts", failing)
    with pytest.raises(PermissionError, match=r"run/config\.json"):
        search()


def test_an_index_that_is_in_use_sees_what_others_have_done_to_it(search, model, folder, read_names):
    """As in a server, which keeps it open: deleted, as the user was told to, it is made anew."""
    index = search()
    shutil.rmtree(index.root)
    read_names.clear()
    index.update(model, log=lambda line: None)
    assert len(read_names) == len(index.entries) == 3
    assert stored(index)
    assert index.store.pictures(index.entries["a.mp4"].content).shape[0] == NUM_CLIPS


def test_an_entry_is_on_the_disk_before_the_update_goes_on(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size) or fsync(number))
    manifest = Manifest(tmp_path / "manifest.jsonl", 0)
    manifest.add("a.mp4", ManifestEntry(state=FileState(size=1, mtime_ns=2), content=CONTENT))
    assert synced == [(tmp_path / "manifest.jsonl").stat().st_size]
