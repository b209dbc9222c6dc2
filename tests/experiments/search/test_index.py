"""The index follows its folder: nothing is read twice, nothing is lost, nothing stays."""

import dataclasses
import os

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.clips import sample_clips
from data_pipelines.decoding.examine import examine_video
from data_pipelines.workers.isolation import Failure
from experiments.search import encoding
from experiments.search.folder import scan
from experiments.search.model import SearchModel
from tests.experiments.untrained import untrained_run

from .conftest import NUM_CLIPS, OPTIONS


def token_files(index):
    return {path.stem for path in (index.root / "videos").rglob("*.npy")}


def test_tokens_are_those_of_the_model(search, model, folder):
    index = search()
    assert sorted(index.entries) == ["a.mp4", "b.MP4", "sub/c.mp4"]
    run = model.run
    for name, entry in index.entries.items():
        video = examine_video(folder / name)
        clips = sample_clips(video, run.experiment.data, num_clips=NUM_CLIPS)
        expected = np.asarray(run.scorer.encode(clips.frames[None]))[0]
        np.testing.assert_allclose(index.store.tokens(entry.content), expected, rtol=1e-2, atol=1e-2)
        np.testing.assert_allclose(entry.clip_seconds, clips.times[:, [0, -1]], atol=1e-3)
        pictures = index.store.pictures(entry.content)
        assert max(pictures.shape[1:3]) == 160
        assert pictures.shape[0] == NUM_CLIPS


def test_an_unchanged_folder_is_not_read_and_needs_no_model(search, folder, read_names, model):
    search()
    assert read_names == ["a.mp4", "b.MP4", "c.mp4"]
    read_names.clear()
    os.utime(folder / "a.mp4")
    (folder / "b.MP4").rename(folder / "sub" / "renamed.mp4")
    (folder / "copy.mp4").write_bytes((folder / "a.mp4").read_bytes())
    facts = model.facts(folder)
    unloaded = SearchModel(folder / "nowhere")
    unloaded.facts = lambda place: facts
    index = search(model=unloaded)
    assert read_names == []
    assert (index.changes.num_same, index.changes.num_gone, index.changes.num_encoded) == (3, 1, 0)
    assert sorted(index.entries) == ["a.mp4", "copy.mp4", "sub/c.mp4", "sub/renamed.mp4"]
    assert len(token_files(index)) == 3


def test_what_changes_is_read_and_what_is_gone_leaves_nothing(search, folder, videos, read_names):
    before = search()
    read_names.clear()
    (folder / "a.mp4").write_bytes(videos[3])
    (folder / "new.mp4").write_bytes(videos[4])
    (folder / "b.MP4").unlink()
    index = search()
    assert sorted(read_names) == ["a.mp4", "new.mp4"]
    assert (index.changes.num_encoded, index.changes.num_gone) == (2, 1)
    assert token_files(index) == {entry.content for entry in index.entries.values()}
    assert index.entries["a.mp4"].content != before.entries["a.mp4"].content
    assert search().entries == index.entries


def test_a_broken_file_is_named_and_tried_again_only_when_it_changes(search, folder, videos, read_names):
    (folder / "broken.mp4").write_bytes(videos[3][:2000])
    index = search()
    assert list(index.unreadable) == ["broken.mp4"]
    assert index.unreadable["broken.mp4"]
    assert "broken.mp4" not in index.entries
    read_names.clear()
    os.utime(folder / "broken.mp4")
    assert search().unreadable == index.unreadable
    assert read_names == []
    search(dataclasses.replace(OPTIONS, retry=True))
    assert read_names == ["broken.mp4"]
    (folder / "broken.mp4").write_bytes(videos[3])
    index = search()
    assert index.unreadable == {}
    assert "broken.mp4" in index.entries


def test_what_the_machine_may_be_the_cause_of_is_tried_again(search, folder, monkeypatch, read_names):
    with monkeypatch.context() as patched:
        patched.setattr(encoding, "read_clips", lambda item: Failure("took longer than 20 s", may_pass=True))
        index = search()
    assert index.unreadable == dict.fromkeys(["a.mp4", "b.MP4", "sub/c.mp4"], "took longer than 20 s")
    assert len(search().entries) == 3


def test_an_end_in_the_middle_loses_two_batches_at_most(search, folder, videos, monkeypatch, read_names):
    for number, data in enumerate(videos):
        (folder / f"{number}.mp4").write_bytes(data)
    one_by_one = dataclasses.replace(OPTIONS, batch_size=1)
    read = encoding.read_clips

    def interrupted(item):
        if len(read_names) == 4:
            raise KeyboardInterrupt
        return read(item)

    with monkeypatch.context() as patched:
        patched.setattr(encoding, "read_clips", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(one_by_one)
    (manifest,) = folder.rglob("manifest.jsonl")
    manifest.write_bytes(manifest.read_bytes() + b'{"name": "cut o')
    index = search(one_by_one)
    assert len(index.entries) == 8
    twice = {name for name in read_names if read_names.count(name) > 1}
    assert len(twice) <= 2
    assert len(search(one_by_one).entries) == 8


def test_workers_read_what_this_process_does(search, folder, videos):
    (folder / "broken.mp4").write_bytes(b"no video")
    expected = search()
    expected_tokens = {name: expected.store.tokens(entry.content) for name, entry in expected.entries.items()}
    other = dataclasses.replace(OPTIONS, num_workers=2, place=folder.parent / "elsewhere")
    index = search(other)
    assert index.root.parent == other.place
    assert index.entries == expected.entries
    assert index.unreadable == expected.unreadable
    for name, tokens in expected_tokens.items():
        np.testing.assert_array_equal(index.store.tokens(index.entries[name].content), tokens)


def test_other_models_and_numbers_of_clips_share_the_folder(search, data_dir, read_names):
    lines = []
    first = search(log=lines.append)
    assert lines == []
    clips = search(dataclasses.replace(OPTIONS, num_clips=1), log=lines.append)
    other = SearchModel.of(untrained_run("retrieval", data_dir, seed=1))
    model = search(model=other, log=lines.append)
    assert len({first.root, clips.root, model.root}) == 3
    assert len(read_names) == 9
    assert [first.root.name in line for line in lines] == [True, True]
    read_names.clear()
    assert search().entries == first.entries
    assert read_names == []


def test_an_empty_folder_costs_no_index(search, folder):
    index = search()
    for path in folder.rglob("*.[mM][pP]4"):
        path.unlink()
    with pytest.raises(UserError, match="no videos in"):
        search()
    assert len(token_files(index)) == 3


def test_links_to_folders_and_what_is_no_video_are_left_out(folder, videos, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "d.mp4").write_bytes(videos[0])
    (folder / "loop").symlink_to(folder)
    (folder / "linked").symlink_to(outside)
    (folder / "file.mp4").symlink_to(outside / "d.mp4")
    (folder / "dangling.mp4").symlink_to("nowhere")
    (folder / ".hidden").mkdir()
    for name in ("notes.txt", ".a.mp4", ".hidden/a.mp4"):
        (folder / name).write_bytes(b"")
    (folder / "index").mkdir()
    (folder / "index" / "picture.jpg").write_bytes(b"")
    os.mkfifo(folder / "pipe.mp4")
    found = scan(folder, left_out=folder / "index")
    assert list(found.files) == ["a.mp4", "b.MP4", "file.mp4", "sub/c.mp4"]
    assert found.num_linked_folders == 2
    assert found.problems == {
        "dangling.mp4": "a link to nowhere, which does not exist",
        "pipe.mp4": "a pipe, socket or device instead of a file",
    }
