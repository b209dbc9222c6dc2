from __future__ import annotations

import dataclasses
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records, records_path
from data_pipelines.corpus.builder import RecordEncoder, shard_path, write_metadata, write_shard
from data_pipelines.corpus.entry import CorpusEntry
from data_pipelines.corpus.ingest import new_data_dir
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.corpus.storage import Original, store
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import FrameIndex, Health, Video
from data_pipelines.synthetic import video_corpus
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from tests.data_pipelines.written import write_videos

TINY = {"num_train": 1, "num_validation": 1, "num_test": 1, "num_workers": 0}


def test_videos_come_back_as_they_were_stored(tmp_path):
    index = FrameIndex(
        frame_times=np.arange(2000) / 90000 + np.pi * 1000,  # beyond float32
        key_frames=np.array([0, 250, 1999]),
        first_pts=-(2**63),
        width=7,
        height=5,
        rotation=270,
        is_reflected=True,
        duration=1 / 3,
    )
    health = Health(verdict="damaged", reason="ü", damaged_ranges=((0.5, 1.0),), notes=("a", "b"))
    ids = [f"folder/ü {i}.mp4" for i in range(30)]
    write_videos(
        tmp_path,
        (Video(video_id=i, data=i.encode() + b"\0\xff\n", index=index, health=health) for i in ids),
    )
    corpus = pickle.loads(pickle.dumps(open_corpus(tmp_path)))  # as it goes to worker processes
    assert list(corpus.ids) == ids
    for video_id in reversed(ids):
        video = corpus.read(video_id)
        assert video.video_id == video_id
        assert video.data == video_id.encode() + b"\0\xff\n"
        for name in ("frame_times", "key_frames"):
            np.testing.assert_array_equal(getattr(video.index, name), getattr(index, name))
        assert video.health == health
        for name in ("first_pts", "width", "height", "rotation", "duration"):
            assert getattr(video.index, name) == getattr(index, name)


def test_the_stored_index_is_that_of_the_stored_bytes(data_dir):
    video = open_corpus(data_dir).read("test_00003")
    index = examine_video(video.data).index
    np.testing.assert_array_equal(video.index.frame_times, index.frame_times)
    np.testing.assert_array_equal(video.index.key_frames, index.key_frames)


def test_missing_data_are_named_with_the_remedy(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"no data directory .*nowhere; make one with `clipbert prepare`"):
        open_corpus(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a data directory"):
        open_corpus(tmp_path)
    (tmp_path / "video_ids.json").write_text("[]")
    with pytest.raises(UserError, match="made by another version"):
        open_corpus(tmp_path)
    with pytest.raises(UserError, match="no video 'nobody' in"):
        open_corpus(data_dir).read("nobody")
    with pytest.raises(UserError, match=r"no captions for split 'training': .*training.jsonl does not exist"):
        read_records(data_dir, Caption, "training")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("*.array_record*", "", r"cannot read the video train_00000: .*\.array_record-00000-of-00001"),
        ("*.array_record*", None, "train_00000: .*open.. failed: No such file"),
        ("features.json", "{", r"dataset description in .*2\.0\.0 cannot be read"),
        ("dataset_info.json", "{", "dataset description in .* cannot be read"),
        ("dataset_info.json", None, "dataset description in .* cannot be read"),
        ("video_ids.json", "[", r"video_ids.json is not JSON .*; prepare the data again"),
        ("video_ids.json", '["train_00000"]', "names 1 videos, but .* has 27"),
    ],
)
def test_damaged_files_are_named(file, text, message, data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / "data")
    (path,) = folder.rglob(file)
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=message):
        open_corpus(folder).read("train_00000")


def test_of_several_files_the_damaged_one_is_named(data_dir, tmp_path):
    video, ids = open_corpus(data_dir).read("test_00000"), ["a", "b", "c"]
    encoder = RecordEncoder(tmp_path)
    records = []
    for video_id in ids:
        stored = store(dataclasses.replace(video, video_id=video_id), Original())
        records.append(encoder.encode(CorpusEntry(video=stored, source_name=video_id, source_sha256="")))
    paths = [shard_path(tmp_path, place, 2) for place in range(2)]
    paths[0].parent.mkdir(parents=True)
    for path, part in zip(paths, (records[:2], records[2:]), strict=True):
        write_shard(path, part)
    write_metadata(tmp_path, ids, [2, 1], sum(map(len, records)), digests=ids)
    paths[1].write_bytes(b"")
    corpus = open_corpus(tmp_path)
    assert [corpus.read(video_id).data for video_id in "ab"] == [video.data] * 2
    with pytest.raises(UserError, match=r"read the video c: .*-00001-of-00002 .*; restore that file"):
        corpus.read("c")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not json", "not JSON"),
        ("[1]", "a bad caption: it is not a JSON object"),
        ('{"id": "1", "video_id": "v"}', "a bad caption: it lacks text"),
        (
            '{"id": "1", "video_id": "v", "text": "t", "txt": "t"}',
            "a bad caption: .* field txt",
        ),
    ],
)
def test_bad_records_are_named_with_their_line(line, problem, tmp_path):
    path = records_path(tmp_path, Caption, "train")
    path.parent.mkdir(parents=True)
    path.write_text('{"id": "0", "video_id": "v", "text": "t"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=rf"train.jsonl line 3 is {problem}.* correct it or remove"):
        read_records(tmp_path, Caption, "train")


def test_after_a_failure_the_older_data_stay_and_the_same_command_goes_on(tmp_path, monkeypatch):
    target = prepare_synthetic_videos(tmp_path / "data", **TINY)
    before = (target / "prepare.json").read_bytes()

    def fail(*args):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(video_corpus, "write_vocab", fail)  # after the videos are written
        with pytest.raises(RuntimeError, match="power cut") as caught:
            prepare_synthetic_videos(tmp_path / "data", overwrite=True, seed=1, **TINY)
    assert "data.partial keeps what is done" in caught.value.__notes__[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "data.partial"]
    assert (target / "prepare.json").read_bytes() == before
    with pytest.raises(UserError, match="unfinished ingest of other videos, with other options"):
        prepare_synthetic_videos(tmp_path / "data", overwrite=True, seed=2, **TINY)
    prepare_synthetic_videos(tmp_path / "data", overwrite=True, seed=1, **TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert '"seed": 1' in (target / "prepare.json").read_text()


def test_existing_data_are_replaced_only_on_request(tmp_path):
    target = prepare_synthetic_videos(tmp_path / "data", **TINY)
    with pytest.raises(
        UserError, match=r"data already exists; choose another --data-dir, or replace it with --overwrite"
    ):
        prepare_synthetic_videos(target, **TINY)
    prepare_synthetic_videos(target, overwrite=True, seed=5, **TINY)
    assert '"seed": 5' in (target / "prepare.json").read_text()
    (tmp_path / "thesis").mkdir()
    with (
        pytest.raises(UserError, match="is not a data directory"),
        new_data_dir(tmp_path / "thesis", overwrite=True),
    ):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "thesis"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("not a directory")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match=r"notes.txt is a file; choose another --data-dir"):
            prepare_synthetic_videos(tmp_path / "notes.txt", **options, **TINY)
    for place in ("notes.txt/data", "notes.txt/deeper/data"):
        with pytest.raises(UserError, match=r"cannot make a directory in .*notes.txt.* --data-dir"):
            prepare_synthetic_videos(tmp_path / place, **TINY)
    assert (tmp_path / "notes.txt").read_text() == "not a directory"


def test_tensorflow_is_not_imported(data_dir):
    code = (
        "import sys; from data_pipelines.corpus.reader import open_corpus;"
        f"open_corpus({str(data_dir)!r}).read('test_00000');"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
