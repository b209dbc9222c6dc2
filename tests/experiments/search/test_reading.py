"""Each content is read once, and what a machine is too small for is no verdict on it."""

import dataclasses
import os

import pytest

from data_pipelines import clips
from data_pipelines.decoding.video import UnreadableVideo
from data_pipelines.workers.isolation import Failure
from experiments.search import encoding

from .conftest import OPTIONS


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("data_pipelines.clips.read_frames", MemoryError()),
        (
            "experiments.search.reading.examine_video",
            UnreadableVideo("(bytes)", "cannot allocate memory"),
        ),
    ],
)
def test_a_file_that_this_process_lacks_memory_for_is_tried_again(search, monkeypatch, place, fault):
    def fail(*_, **__):
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(place, fail)
        index = search()
    assert set(index.unreadable.values()) == {"does not fit into the memory of this process"}
    assert len(search().entries) == 3


def test_a_real_worker_says_that_it_has_too_little_memory(search, folder):
    os.truncate(folder / "a.mp4", 480 << 20)
    index = search(dataclasses.replace(OPTIONS, num_workers=1, worker_memory_gib=0.5))
    assert "--worker-memory-gib" in index.unreadable["a.mp4"]
    assert sorted(index.entries) == ["b.MP4", "sub/c.mp4"]


def test_a_file_is_decoded_once_for_the_model_and_the_pictures(search, monkeypatch):
    decoded = []
    read_frames = clips.read_frames

    def noted(*arguments):
        decoded.append(len(arguments[1]))
        return read_frames(*arguments)

    monkeypatch.setattr(clips, "read_frames", noted)
    search()
    assert len(decoded) == 3


def test_copies_that_are_new_together_are_encoded_once(search, folder, videos, read_names):
    (folder / "copy of a.mp4").write_bytes((folder / "a.mp4").read_bytes())
    for name in ("bad.mp4", "bad too.mp4"):
        (folder / name).write_bytes(b"no video")
    index = search()
    assert sorted(read_names) == ["a.mp4", "b.MP4", "bad too.mp4", "c.mp4"]
    assert index.entries["copy of a.mp4"].content == index.entries["a.mp4"].content
    assert index.entries["copy of a.mp4"].clip_seconds == index.entries["a.mp4"].clip_seconds
    assert index.unreadable["bad.mp4"] == index.unreadable["bad too.mp4"]
    assert (index.changes.num_encoded, index.changes.num_same, index.changes.num_unreadable) == (3, 2, 1)
    read_names.clear()
    assert search().entries == index.entries
    assert read_names == []


def test_copies_share_what_keeps_them_from_being_read(search, folder, monkeypatch):
    (folder / "copy of a.mp4").write_bytes((folder / "a.mp4").read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(encoding, "read_clips", lambda item: Failure("took longer than 20 s", may_pass=True))
        index = search()
    assert len(index.unreadable) == 4
    assert set(index.unreadable.values()) == {"took longer than 20 s"}
    assert len(search().entries) == 4
