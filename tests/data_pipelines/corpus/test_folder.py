from __future__ import annotations

import csv
import itertools
import json
import struct
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import SPLITS, read_records
from data_pipelines.corpus.folder import prepare_folder
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.tokenizer import load_tokenizer


def labelled(video: bytes, label: str) -> bytes:
    """Return an MP4 that differs in a box without meaning, so that it is no copy of another."""
    return video + struct.pack(">I4s", 8 + len(label), b"free") + label.encode()


@pytest.fixture
def videos_dir(tmp_path, encode_video) -> Path:
    folder = tmp_path / "videos"
    (folder / "holiday").mkdir(parents=True)
    video = encode_video(num_frames=4)
    for name in ("cat.mp4", "dog.mp4", "holiday/sea.mp4", "unnamed.mp4"):
        (folder / name).write_bytes(labelled(video, name))
    (folder / "broken.mp4").write_text("words")
    (folder / "long.mp4").write_bytes(encode_video(num_frames=2, size=(192, 32)))
    (folder / "notes.txt").write_text("not a video")
    return folder


def write_csv(folder: Path, lines: Sequence[str], name: str = "captions.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")  # as spreadsheets save it
    return path


LINES = (
    "video,caption",
    'cat.mp4,"a cat, asleep"',
    "cat,the cat again",
    "dog.mp4,a dog",
    "holiday/sea.mp4,the sea",
    "broken.mp4,nobody can see this",
    "gone.mp4,nor this",
)


def test_what_can_be_used_is_built_and_the_rest_reported(videos_dir, tmp_path):
    report = prepare_folder(videos_dir, write_csv(tmp_path, LINES), tmp_path / "data", num_workers=2)
    assert set(open_corpus(tmp_path / "data").ids) == {"cat.mp4", "dog.mp4", "holiday/sea.mp4", "unnamed.mp4"}
    reasons = dict(report.unreadable)
    assert sorted(reasons) == ["broken.mp4", "long.mp4"]
    assert "not a video" in reasons["broken.mp4"]
    assert "aspect ratio of 6.0" in reasons["long.mp4"]
    assert report.captions_without_video == ("gone.mp4",)
    assert report.videos_without_caption == ("unnamed.mp4",)
    for word in ("broken.mp4", "long.mp4", "gone.mp4", "unnamed.mp4"):
        assert word in str(report)
    facts = json.loads((tmp_path / "data" / "prepare.json").read_text())
    assert [name for name, _ in facts["unreadable"]] == ["broken.mp4", "long.mp4"]
    stored = open_corpus(tmp_path / "data").read("cat.mp4")
    assert stored.data == (videos_dir / "cat.mp4").read_bytes()


def test_a_handful_of_videos_is_in_every_split(videos_dir, tmp_path):
    prepare_folder(videos_dir, write_csv(tmp_path, LINES), tmp_path / "data", num_workers=0)
    expected = [("cat.mp4", "a cat, asleep"), ("cat.mp4", "the cat again"), ("dog.mp4", "a dog"),
                ("holiday/sea.mp4", "the sea")]  # fmt: skip
    for split in SPLITS:
        records = read_records(tmp_path / "data", Caption, split)
        assert [(r.video_id, r.text) for r in records] == expected
    tokenizer = load_tokenizer(tmp_path / "data" / "vocab.txt")
    assert {"cat", "dog", "asleep"} < set(tokenizer.tokens)
    assert "nobody" not in tokenizer.tokens


def test_splits_of_the_table_are_kept(videos_dir, tmp_path):
    path = tmp_path / "captions.jsonl"
    rows = [
        {"video": "cat.mp4", "caption": "a cat", "split": "train", "id": "c1"},
        {"video": "dog.mp4", "caption": "a dog", "split": "val"},
        {"video": "holiday/sea.mp4", "caption": "the sea", "split": "test"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = prepare_folder(videos_dir, path, tmp_path / "data", num_workers=0)
    assert report.num_captions == {"train": 1, "validation": 1, "test": 1}
    assert read_records(tmp_path / "data", Caption, "train") == [
        Caption(id="c1", video_id="cat.mp4", text="a cat")
    ]
    assert read_records(tmp_path / "data", Caption, "validation")[0].video_id == "dog.mp4"


@pytest.mark.parametrize("video", ["gone.mp4", "broken.mp4"])
def test_evaluation_splits_of_the_table_do_not_shrink_in_silence(videos_dir, tmp_path, video):
    table = write_csv(
        tmp_path, ["video,caption,split", "cat.mp4,a cat,train", f"{video},a dog,test", "dog.mp4,a dog,test"]
    )
    with pytest.raises(UserError, match=rf"1 videos of the test split, '{video}' first.*1 of 2 captions"):
        prepare_folder(videos_dir, table, tmp_path / "data", num_workers=0)
    report = prepare_folder(videos_dir, table, tmp_path / "data", num_workers=0, allow_missing_videos=True)
    assert report.num_lost == {"train": 0, "test": 1}
    assert "left out without their video: 1 test captions" in str(report)
    table = write_csv(tmp_path, ["video,caption,split", f"{video},a cat,train", "dog.mp4,a dog,test"])
    report = prepare_folder(videos_dir, table, tmp_path / "train", num_workers=0)
    assert report.num_lost == {"train": 1, "test": 0}


def test_many_videos_are_split_by_video(tmp_path, encode_video):
    (tmp_path / "videos").mkdir()
    video = encode_video(num_frames=1, size=(16, 16))
    names = [f"{i}.mp4" for i in range(80)]
    for name in names:
        (tmp_path / "videos" / name).write_bytes(labelled(video, name))
    lines = ["video,caption", *(f"{n},one {n}" for n in names), *(f"{n},two {n}" for n in names)]
    table = write_csv(tmp_path, lines)
    prepare_folder(tmp_path / "videos", table, tmp_path / "a", num_workers=0)
    prepare_folder(tmp_path / "videos", table, tmp_path / "b", num_workers=0)
    prepare_folder(tmp_path / "videos", table, tmp_path / "c", num_workers=0, seed=1)
    videos = lambda d: [sorted({r.video_id for r in read_records(tmp_path / d, Caption, s)}) for s in SPLITS]  # noqa: E731
    assert sorted(itertools.chain(*videos("a"))) == sorted(names)  # each in one split only
    assert all(videos("a"))
    assert len(videos("a")[0]) == pytest.approx(64, abs=10)
    assert videos("a") == videos("b") != videos("c")


def test_a_given_vocabulary_is_copied(videos_dir, data_dir, tmp_path):
    given = data_dir / "vocab.txt"
    prepare_folder(videos_dir, write_csv(tmp_path, LINES), tmp_path / "data", vocab=given, num_workers=0)
    assert (tmp_path / "data" / "vocab.txt").read_bytes() == given.read_bytes()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,text", "cat.mp4,a"], "lacks video and caption; found: file, text; needed: video, caption"),
        (["video,text", "cat.mp4,a"], "captions.csv lacks caption; found: video, text"),
        (["video,caption"], "captions.csv has no captions"),
        (["video,caption", "cat.mp4,"], "line 2 has an empty caption"),
        (["video,caption,split", "cat.mp4,a,training"], "line 2: split must be train, validation or test"),
        (["video,caption,split", "cat.mp4,a,train", "dog.mp4,b,"], "gives a split for some lines only"),
        (["video,caption,id", "cat.mp4,a,1", "dog.mp4,b,1"], "has an id twice"),
        (["video,caption", "cat.mp4,a cat, asleep"], "line 2 has 3 values .* put quotes around a caption"),
        (["video,caption,split", "cat.mp4,a"], "captions.csv line 2 has 2 values for the columns video"),
        (["video,caption", "dog.mp4,a", 'cat.mp4,"a cat', "dog.mp4,b"], "line 3 is not csv .* quote"),
        (["video,caption", f'cat.mp4,"{"a " * 99999}'], "captions.csv line 2 is not csv .* quote"),
        (["video,caption", "nothing.mp4,a"], r"no caption of .* belongs to .* such as 'broken.mp4'"),
    ],
)  # fmt: skip
def test_bad_tables_are_explained(lines, message, videos_dir, tmp_path):
    with pytest.raises(UserError, match=message):
        prepare_folder(videos_dir, write_csv(tmp_path, lines), tmp_path / "data", num_workers=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["captions.csv", "videos"]  # nothing half-written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{oops}\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 must be a JSON object"),
        ('{"video": "cat.mp4"}\n', "line 1 lacks caption; found: video"),
        ('{"video": "cat.mp4", "caption": ["b"]}\n', r'line 1: caption must be text, not \["b"\]'),
        ('{"video": "cat.mp4", "caption": "b", "split": ["train"]}', "line 1: split must be text, not"),
        ('{"video": "cat.mp4", "caption": true}', "line 1: caption must be text, not true"),
    ],
)
def test_bad_json_lines_are_explained(text, message, videos_dir, tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        prepare_folder(videos_dir, path, tmp_path / "data", num_workers=0)


def test_rows_of_a_csv_end_only_where_csv_says_so(videos_dir, tmp_path):
    captions = ["a cat\u2028asleep", "a\x85dog", 'the "sea"\nat night']
    table = tmp_path / "captions.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(zip(("video", "cat", "dog", "holiday/sea"), ("caption", *captions), strict=True))
    prepare_folder(videos_dir, table, tmp_path / "data", num_workers=0)
    records = read_records(tmp_path / "data", Caption, "train")
    assert [record.text for record in records] == captions
    assert [record.id for record in records] == ["caption_000002", "caption_000003", "caption_000004"]


def test_missing_files_are_named(videos_dir, tmp_path):
    table = write_csv(tmp_path, LINES)
    (tmp_path / "empty").mkdir()
    (tmp_path / "captions.xlsx").write_text("")
    (tmp_path / "all_broken").mkdir()
    (tmp_path / "all_broken" / "cat.mp4").write_text("words")
    target = tmp_path / "data"
    with pytest.raises(UserError, match=r"no annotations at .*nowhere.csv"):
        prepare_folder(videos_dir, tmp_path / "nowhere.csv", target)
    with pytest.raises(UserError, match=r"captions.xlsx is neither .csv nor .jsonl"):
        prepare_folder(videos_dir, tmp_path / "captions.xlsx", target)
    with pytest.raises(UserError, match=r"no videos at .*nowhere; give --videos a folder"):
        prepare_folder(tmp_path / "nowhere", table, target)
    with pytest.raises(UserError, match=r"no videos in .*empty"):
        prepare_folder(tmp_path / "empty", table, target)
    with pytest.raises(UserError, match=r"all_broken; cat.mp4: "):
        prepare_folder(tmp_path / "all_broken", table, target)
    with pytest.raises(UserError, match="no vocabulary at"):
        prepare_folder(videos_dir, table, target, vocab=tmp_path / "nowhere.txt")
    assert not target.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_frames_of_a_turned_video_are_upright(encode_video, tmp_path):
    from data_pipelines.decoding.decode import read_frames
    from data_pipelines.decoding.examine import examine_video
    from data_pipelines.decoding.video import FrameIndex

    video = examine_video(encode_video(num_frames=2, size=(64, 48)))
    data, index = video.data, video.index
    fields = {name: getattr(index, name) for name in FrameIndex.__dataclass_fields__}
    turned = FrameIndex(**{**fields, "rotation": 90, "width": 48, "height": 64})
    plain = read_frames(data, np.array([0, 1]), index)
    np.testing.assert_array_equal(
        read_frames(data, np.array([0, 1]), turned), np.rot90(plain, 1, axes=(1, 2))
    )


def test_a_video_and_its_copy_become_one(videos_dir, tmp_path):
    (videos_dir / "tom.mp4").write_bytes((videos_dir / "cat.mp4").read_bytes())
    table = write_csv(tmp_path, ["video,caption", "cat.mp4,a cat", "tom.mp4,tom", "dog.mp4,a dog"])
    report = prepare_folder(videos_dir, table, tmp_path / "data", num_workers=0)
    assert "tom.mp4" not in open_corpus(tmp_path / "data").ids
    records = read_records(tmp_path / "data", Caption, "test")
    assert [(r.video_id, r.text) for r in records[:2]] == [("cat.mp4", "a cat"), ("cat.mp4", "tom")]
    assert "left out, the same as cat.mp4: 1 (tom.mp4)" in str(report)


@pytest.mark.parametrize(
    "lines",
    [("cat.mp4,a,train", "tom.mp4,b,test"), ("cat.mp4,a,train", "cat.mp4,b,test"),
     ("cat,a,train", "cat.mp4,b,test"), ("dog.mp4,a,train", "tom.mp4,b,train", "cat,c,test")],
    ids=["a copy", "one name", "two names", "a later copy"],
)  # fmt: skip
def test_a_video_in_two_splits_is_refused_before_any_is_read(lines, videos_dir, tmp_path):
    (videos_dir / "tom.mp4").write_bytes((videos_dir / "cat.mp4").read_bytes())
    table = write_csv(tmp_path, ["video,caption,split", *lines])
    with pytest.raises(UserError, match=r"cat.*(train|test).*a fair evaluation keeps them apart"):
        prepare_folder(videos_dir, table, tmp_path / "data", num_workers=0)
    assert not list(tmp_path.glob("data*"))


def test_names_match_however_accents_are_stored(videos_dir, tmp_path):
    composed = "caf\u00e9.mp4"
    (videos_dir / "dog.mp4").rename(videos_dir / unicodedata.normalize("NFD", composed))
    table = write_csv(tmp_path, ["video,caption", f"{composed},a café", "cat.mp4,a cat"])
    report = prepare_folder(videos_dir, table, tmp_path / "data", num_workers=0)
    assert not report.captions_without_video
    assert report.num_captions["train"] == 2


def test_content_decides_what_is_a_video_and_the_rest_is_counted(videos_dir, tmp_path):
    for name in ("clip.MTS", "clip.dat", "clip"):
        (videos_dir / name).write_bytes(labelled((videos_dir / "cat.mp4").read_bytes(), name))
    (videos_dir / ".hidden.mp4").write_bytes(b"")
    report = prepare_folder(videos_dir, None, tmp_path / "data", num_workers=0)
    assert {"clip.MTS", "clip.dat", "clip"} < set(open_corpus(tmp_path / "data").ids)
    assert report.left_out == ((".hidden.mp4", "hidden"), ("notes.txt", "not a video"))
    assert "left out, not a video: 1 (notes.txt)" in str(report)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "video,caption, caption\ncat.mp4,a,b\n", "a.csv has the column caption twice"),
        ("a.jsonl", '{"video": "cat", "caption": "a", "caption": "b"}', "line 1 has the key `caption` twice"),
        (
            "a.jsonl",
            '\n{"video": "cat", "caption": "a \\ud83d b"}',
            "a.jsonl line 2 has half of a character",
        ),
        ("a.jsonl", '{"video": "cat", "caption": "\\udE00"}', "a.jsonl line 1 has half of a character"),
    ],
)
def test_tables_that_would_lose_something_are_refused(name, text, message, videos_dir, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        prepare_folder(videos_dir, tmp_path / name, tmp_path / "data", num_workers=0)


def test_whole_characters_and_escaped_backslashes_are_kept(videos_dir, tmp_path):
    captions = ["a \U0001f600 cat", "a \\ud83d path"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"video": "cat", "caption": text}) + "\n" for text in captions))
    prepare_folder(videos_dir, path, tmp_path / "data", num_workers=0)
    assert [record.text for record in read_records(tmp_path / "data", Caption, "train")] == captions
