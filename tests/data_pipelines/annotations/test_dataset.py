"""From annotation files and videos to a corpus that trains."""

from __future__ import annotations

import dataclasses
import json
import unicodedata

import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.tasks.retrieval import Retrieval
from data_pipelines.annotations.dataset import Annotations
from data_pipelines.annotations.own_table import OwnTable
from data_pipelines.annotations.records import Caption, OpenQuestion
from data_pipelines.annotations.store import missing_videos_path, read_answers, read_records
from data_pipelines.corpus.dataset import prepare_dataset, resolve_videos
from data_pipelines.corpus.folder import prepare_folder
from data_pipelines.corpus.ingest import IngestOptions
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.data_config import DataConfig
from data_pipelines.loader import train_batches

IN_THIS_PROCESS = IngestOptions(num_workers=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A dataset that already exists."""

    annotations: Annotations

    def read(self) -> Annotations:
        return self.annotations


def captions(*video_ids: str) -> list[Caption]:
    return [Caption(id=f"{v}#{i}", video_id=v, text=f"text {i} of {v}") for v in video_ids for i in range(2)]


@pytest.fixture
def dataset() -> Given:
    records = {(Caption, "train"): captions("a", "b", "c"), (Caption, "test"): captions("d")}
    return Given(
        annotations=Annotations(records=records, file_stems={"b": ("v_b",)}, facts=("counted", "checked"))
    )


@pytest.fixture
def videos(tmp_path, encode_video):
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.mp4", "v_b.webm", "sub/c.mp4", "d.mp4", "stray.mp4")):
        (folder / name).write_bytes(encode_video(num_frames=4 + number))
    return folder


def prepare(dataset, data_dir, **options):
    return prepare_dataset(dataset, data_dir, **{"options": IN_THIS_PROCESS, **options})


def test_from_annotation_files_to_training_batches(dataset, videos, tmp_path):
    data_dir = tmp_path / "data"
    report = prepare(dataset, data_dir, videos=videos)
    corpus = open_corpus(data_dir)
    assert sorted(corpus.ids) == ["a", "b", "c", "d"]
    assert [len(corpus.read(video_id).index.frame_times) for video_id in "abcd"] == [4, 5, 6, 7]
    assert read_records(data_dir, Caption, "train") == captions("a", "b", "c")
    assert report.num_records == {"captions": {"train": 6, "test": 2}}
    assert (report.num_videos, report.missing, report.unreadable, report.bad_share) == (4, (), (), 0)
    assert str(report).startswith("counted\nchecked\ncaptions: 6 train, 2 test\n4 videos stored as original:")
    assert json.loads((data_dir / "prepare.json").read_text())["num_records"] == report.num_records
    config = DataConfig(data_dir=str(data_dir), num_clips=2, num_frames=1, size=32)
    batches = train_batches(config, Retrieval(num_negatives=1), batch_size=3, seed=0)
    batch = next(batches)
    assert batch.frames.shape == (3, 2, 1, 32, 32, 3)
    unknown = config.load_tokenizer().tokens.index("[UNK]")
    assert not (batch.text_ids == unknown).any()
    batches.close()


def test_missing_training_videos_are_listed_and_left_out(dataset, videos, tmp_path):
    (videos / "a.mp4").unlink()
    report = prepare(dataset, tmp_path / "data", videos=videos)
    assert report.missing == ("a",)
    assert report.num_lost["captions"] == {"train": 2, "test": 0}
    assert report.bad_share == 0.25
    missing_videos = missing_videos_path(tmp_path / "data", Caption)
    assert missing_videos.read_text() == "a\n"
    assert {c.video_id for c in read_records(tmp_path / "data", Caption, "train")} == {"b", "c"}
    for words in ("1 videos are missing", "left out without their video: 2 train captions"):
        assert words in str(report)


@pytest.mark.parametrize("cause", ["missing", "unreadable"])
def test_evaluation_does_not_shrink_in_silence(dataset, videos, tmp_path, cause):
    if cause == "missing":
        (videos / "d.mp4").unlink()
    else:
        (videos / "d.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"1 videos of the test split, 'd' first.*2 of 2 captions"):
        prepare(dataset, tmp_path / "data", videos=videos)
    assert not (tmp_path / "data" / "prepare.json").exists()
    report = prepare(dataset, tmp_path / "data", videos=videos, allow_missing_videos=True)
    assert report.num_lost["captions"] == {"train": 0, "test": 2}
    assert read_records(tmp_path / "data", Caption, "test") == []
    assert ("d" in report.missing) == (cause == "missing")
    assert [video_id for video_id, _ in report.unreadable] == ([] if cause == "missing" else ["d"])


def test_records_are_added_to_a_corpus_under_its_ids(dataset, videos, tmp_path):
    data_dir = tmp_path / "data"
    prepare(dataset, data_dir, videos=videos)
    vocabulary = (data_dir / "vocab.txt").read_bytes()
    question = OpenQuestion(id="1", video_id="c.other", question="who?", answer="cat")
    questions = Given(
        annotations=Annotations(
            records={(OpenQuestion, "test"): [question]},
            answers={OpenQuestion: ("cat", "dog")},
            file_stems={"c.other": ("c",)},
        )
    )
    report = prepare(questions, data_dir, videos=None)
    assert read_records(data_dir, OpenQuestion, "test") == [dataclasses.replace(question, video_id="c")]
    assert read_answers(data_dir, OpenQuestion) == ("cat", "dog")
    assert read_records(data_dir, Caption, "train") == captions("a", "b", "c")
    assert (data_dir / "vocab.txt").read_bytes() == vocabulary
    summary = json.loads((data_dir / "prepare.json").read_text())
    assert summary["added"][0]["num_records"] == report.num_records
    with pytest.raises(UserError, match="already exists"):
        prepare(questions, data_dir, videos=None)
    prepare(questions, data_dir, videos=None, overwrite=True)
    lost = Given(annotations=Annotations(records={(Caption, "test"): captions("x")}))
    with pytest.raises(UserError, match="has none of the 1 videos, such as 'x'"):
        prepare(lost, data_dir, videos=None, overwrite=True)


def test_records_bring_a_vocabulary_to_videos_without_texts(dataset, videos, tmp_path):
    prepare_folder(videos, None, tmp_path / "data", options=IN_THIS_PROCESS)
    prepare(dataset, tmp_path / "data", videos=None)
    config = DataConfig(data_dir=str(tmp_path / "data"), num_clips=1, num_frames=1, size=32)
    batch = next(train_batches(config, Retrieval(num_negatives=1), batch_size=3, seed=0))
    assert not (batch.text_ids == config.load_tokenizer().tokens.index("[UNK]")).any()


def test_bad_annotations_are_refused_before_any_video_is_read(tmp_path):
    class Bad:
        def read(self):
            raise UserError("truncated")

    with pytest.raises(UserError, match="truncated"):
        prepare(Bad(), tmp_path / "data", videos=tmp_path / "nowhere")


def test_videos_are_found_by_name_with_any_suffix():
    stems = {"c": ("c.mov",), "e": ("v_e",)}
    records = {(Caption, "train"): captions("a", "b.5-6.7", "c", "e", "gone")}
    annotations = Annotations(records=records, file_stems=stems)
    names = ["a.mp4", "._a.mp4", "film/b.5-6.7.avi", "c.mov.mp4", "x/v_e", "ab.mp4"]
    found = resolve_videos(annotations, names)
    assert found == {"a": "a.mp4", "b.5-6.7": "film/b.5-6.7.avi", "c": "c.mov.mp4", "e": "x/v_e"}
    with pytest.raises(UserError, match=r"a.mp4 and x/a.webm could both be video 'a'"):
        resolve_videos(annotations, [*names, "x/a.webm"])


def own_table(tmp_path, *lines: str) -> OwnTable:
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["video,caption,split", *lines]) + "\n", encoding="utf-8")
    return OwnTable(table=table)


@pytest.mark.parametrize("other", ["a.mp4", "copy.mp4"])
def test_a_table_names_a_video_twice_within_a_split(other, videos, tmp_path):
    (videos / "copy.mp4").write_bytes((videos / "a.mp4").read_bytes())
    dataset = own_table(tmp_path, "a,one,train", f"{other},two,train", "d,three,test")
    report = prepare(dataset, tmp_path / "data", videos=videos)
    (id_,) = {record.video_id for record in read_records(tmp_path / "data", Caption, "train")}
    assert sorted(open_corpus(tmp_path / "data").ids) == sorted([id_, "d"])
    assert "is the same video as" in str(report)


@pytest.mark.parametrize("other", ["a.mp4", "copy.mp4"])
def test_a_table_does_not_train_on_a_video_that_it_tests(other, videos, tmp_path):
    (videos / "copy.mp4").write_bytes((videos / "a.mp4").read_bytes())
    with pytest.raises(UserError, match="they are the same video"):
        prepare(own_table(tmp_path, "a,one,train", f"{other},two,test"), tmp_path / "data", videos=videos)
    assert not (tmp_path / "data").exists()
    prepare_folder(videos, None, tmp_path / "folder", num_workers=0)
    dataset = own_table(tmp_path, "a,x,train", "a.mp4,y,test")
    with pytest.raises(UserError, match="they are the same video"):
        prepare(dataset, tmp_path / "folder", videos=None)


def test_published_datasets_keep_their_copies(dataset, videos, tmp_path):
    (videos / "d.mp4").write_bytes((videos / "a.mp4").read_bytes())
    prepare(dataset, tmp_path / "data", videos=videos)
    assert {"a", "d"} < set(open_corpus(tmp_path / "data").ids)


def test_names_are_found_however_accents_are_stored():
    composed = "caf\u00e9"
    annotations = Annotations(records={(Caption, "test"): captions(composed)})
    decomposed = unicodedata.normalize("NFD", f"{composed}.mp4")
    assert resolve_videos(annotations, [decomposed]) == {composed: decomposed}
