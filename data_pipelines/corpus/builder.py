"""Stage 1 of the corridor: the corpus, a TFDS dataset in which each video is stored once.

Written shard by shard by `ingest`, read at random by video id. Files are ArrayRecord; TensorFlow is not
needed. A data directory:

    videos/                     the dataset: bytes, frame index, health and origin of every video
    video_ids.json              ids in the order of the dataset
    videos.sha256               what all of them hold, in one fingerprint
    unreadable.tsv              videos that were left out, and why (only if there are any)
    annotations/<kind>/<split>.jsonl
    samples/                    some videos as files (synthetic corpus only)
    vocab.txt                   WordPiece vocabulary
    prepare.json                what was built, and what could not be
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from google.protobuf.json_format import ParseError
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.splits import SplitDict
from tensorflow_datasets.proto import tf_example_pb2

from clipbert_jax.atomic_files import replacing
from clipbert_jax.errors import UserError
from data_pipelines.corpus.entry import CorpusEntry
from data_pipelines.corpus.storage import Original, StoredVideo, store
from data_pipelines.decoding.video import FrameIndex, Health, UnreadableVideo, Video

FORMAT_VERSION = "2.0.0"
_SPLIT = "videos"
_SHA256 = "videos.sha256"
_INDEX_FIELDS = tuple(field.name for field in dataclasses.fields(FrameIndex))


class _OwnInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Do not ask Google's bucket about this dataset, nor leave a temporary folder behind."""


class VideoCorpus(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of every corpus: its features and version; `write_shard` writes the records."""

    VERSION = tfds.core.Version(FORMAT_VERSION)
    RELEASE_NOTES: ClassVar = {
        FORMAT_VERSION: "Health, storage form, origin and checksum of every video.",
        "1.0.0": "One record per video: bytes, frame times, key frames, size, duration.",
    }
    url_infos: ClassVar[
        dict[str, Any]
    ] = {}  # nothing to download; TFDS would look for checksums in the package

    def __init__(self, **kwargs: Any):
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def binary(dtype: Any, *shape: int | None) -> tfds.features.Tensor:
            """Not as lists of the record format: those have no float64, and take long to read."""
            return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

        integer = tfds.features.Scalar(np.int64)
        return _OwnInfo(
            builder=self,
            description="Videos with the time of every frame.",
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {
                    "video_id": tfds.features.Text(),
                    "data": tfds.features.Text(doc="The file in the form in which it is stored."),
                    "frame_times": binary(np.float64, None),
                    "key_frames": binary(np.int64, None),
                    "duration": binary(np.float64),
                    "first_pts": integer,
                    "width": integer,
                    "height": integer,
                    "rotation": integer,
                    "is_reflected": tfds.features.Scalar(np.bool_),
                    "health": tfds.features.Text(doc="JSON: what a full decode of the original found."),
                    "storage": tfds.features.Text(doc="JSON: the form, and what it did to frame times."),
                    "source_name": tfds.features.Text(doc="Name of the original file in its source."),
                    "source_sha256": tfds.features.Text(doc="Of the bytes of the original file."),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        raise NotImplementedError("a corpus is written by `clipbert prepare`")

    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError("a corpus is written by `clipbert prepare`")


class RecordEncoder:
    """Makes the bytes of records: the same ones for the same video, in any process."""

    def __init__(self, data_dir: Path):
        self._features: Any = VideoCorpus(data_dir=data_dir / "videos").info.features
        self._serializer = ExampleSerializer(self._features.get_serialized_info())

    def encode(self, entry: CorpusEntry) -> bytes:
        """Return the record of a video."""
        video = entry.video
        example = {name: getattr(video.index, name) for name in _INDEX_FIELDS} | {
            "video_id": video.video_id,
            "data": video.data,
            "health": json.dumps(dataclasses.asdict(video.health), ensure_ascii=False),
            "storage": json.dumps(_storage_facts(video), ensure_ascii=False),
            "source_name": entry.source_name,
            "source_sha256": entry.source_sha256,
        }
        example = self._serializer.get_tf_example(self._features.encode_example(example))
        return example.SerializeToString(deterministic=True)  # TFDS' own order of fields is random


def _storage_facts(video: StoredVideo) -> dict[str, Any]:
    facts = dataclasses.asdict(video.note)
    return {**facts, "form": {"name": type(video.note.form).__name__.lower(), **facts["form"]}}


def write_shard(path: Path, records: Iterable[bytes]) -> int:
    """Write one ArrayRecord file, whole or not at all; return how many bytes of records it has."""
    num_bytes = 0
    with replacing(path) as temporary:
        writer = ArrayRecordWriter(os.fspath(temporary), "group_size:1")
        try:
            for record in records:
                writer.write(record)
                num_bytes += len(record)
        finally:
            writer.close()
    return num_bytes


def shard_path(data_dir: Path, number: int, num_shards: int) -> Path:
    """Return where TFDS looks for a shard."""
    name = f"video_corpus-{_SPLIT}.array_record-{number:05d}-of-{num_shards:05d}"
    return _dataset_dir(data_dir) / name


def video_digest(video: Video) -> str:
    """Return a fingerprint of all that frames are decoded from: the stored bytes and the frame index."""
    digest = hashlib.sha256(video.data)
    for name in _INDEX_FIELDS:
        digest.update(np.asarray(getattr(video.index, name)).tobytes())
    return digest.hexdigest()[:16]


def write_metadata(
    data_dir: Path,
    ids: Sequence[str],
    shard_lengths: Sequence[int],
    num_bytes: int,
    *,
    digests: Sequence[str],
) -> None:
    """Write what TFDS, `open_corpus` and `videos_sha256` must know besides the shards.

    Args:
      data_dir: being built.
      ids: of the videos, in the order of the dataset.
      shard_lengths: videos of each shard.
      num_bytes: of all records.
      digests: `video_digest` of each video.
    """
    for path in _dataset_dir(data_dir).glob("*.json"):
        path.unlink()  # TFDS would take up what an interrupted build has left, and write other files
    builder = VideoCorpus(data_dir=data_dir / "videos")
    split = tfds.core.SplitInfo(
        name=_SPLIT,
        shard_lengths=list(shard_lengths),
        num_bytes=num_bytes,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(_dataset_dir(data_dir)),
            dataset_name="video_corpus",
            split=_SPLIT,
            filetype_suffix="array_record",
        ),
    )
    _dataset_dir(data_dir).mkdir(parents=True, exist_ok=True)
    builder.info.set_splits(SplitDict([split]))
    builder.info.write_to_directory(_dataset_dir(data_dir))
    (data_dir / "video_ids.json").write_text(json.dumps(list(ids)), encoding="utf-8")
    total = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    (data_dir / _SHA256).write_text(f"{total}\n", encoding="utf-8")


def write_videos(data_dir: Path, videos: Iterable[Video]) -> tuple[str, ...]:
    """Write the dataset of a data directory as one shard, as they are; return the ids in its order."""
    encoder = RecordEncoder(data_dir)
    ids: list[str] = []
    digests: list[str] = []

    def records() -> Iterator[bytes]:
        for video in videos:
            ids.append(video.video_id)
            checksum = hashlib.sha256(video.data).hexdigest()
            stored = store(video, Original())
            digests.append(video_digest(stored))
            yield encoder.encode(
                CorpusEntry(video=stored, source_name=video.video_id, source_sha256=checksum)
            )

    path = shard_path(data_dir, 0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = write_shard(path, records())
    write_metadata(data_dir, ids, [len(ids)], num_bytes, digests=digests)
    return tuple(ids)


class Corpus:
    """Random access to the videos of a data directory; cheap to send to worker processes."""

    def __init__(self, data_dir: Path, ids: tuple[str, ...]):
        self.data_dir = data_dir
        self.ids = ids
        self._row_of = {video_id: row for row, video_id in enumerate(ids)}
        self._source: Any = None
        self._shards = _Shards((), ())

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._row_of

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.data_dir, self.ids)

    def read(self, video_id: str) -> Video:
        """Return a video.

        Raises:
          UserError: the corpus has no such video, or its descriptions are damaged.
          UnreadableVideo: the file that holds it is damaged.
        """
        if video_id not in self._row_of:
            raise UserError(
                f"no video {video_id!r} in {self.data_dir}; its video_ids.json lists those it has"
            )
        if self._source is None:  # where it is used: in the worker process
            self._source, self._shards = _open_source(self.data_dir, len(self.ids))
        row = self._row_of[video_id]
        try:
            record = self._source[row]
        except (RuntimeError, OSError) as error:  # ArrayRecord's own are RuntimeErrors
            raise UnreadableVideo(video_id, self._shards.explain(row, error)) from error
        return _decode(video_id, record)


@dataclasses.dataclass(frozen=True)
class _Shards:
    """The files of a dataset, and how many records they have together with those before."""

    paths: tuple[str, ...]
    ends: tuple[int, ...]

    def explain(self, row: int, error: Exception) -> str:
        path = self.paths[bisect.bisect_right(self.ends, row)]
        reason = str(error).strip().partition("\n")[0]
        return (
            f"its record is not to be had from {path} ({reason}); restore that file or prepare the data again"
        )


def _open_source(data_dir: Path, num_videos: int) -> tuple[Any, _Shards]:
    """Return the records by number, and which file has which."""
    folder = _dataset_dir(data_dir)
    try:
        builder = tfds.builder_from_directory(folder)
        split = builder.info.splits[_SPLIT]
        source = builder.as_data_source(
            split=_SPLIT,  # pyright: ignore[reportCallIssue]
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        )
    except (OSError, ValueError, KeyError, ParseError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the descriptions of the videos in {folder} cannot be read ({reason}); prepare the data again"
        ) from error
    ends = tuple(itertools.accumulate(split.shard_lengths))
    if ends[-1:] != (num_videos,):
        raise UserError(
            f"{data_dir / 'video_ids.json'} names {num_videos} videos, and {folder} has {sum(ends[-1:])}; "
            "prepare the data again"
        )
    return source, _Shards(tuple(map(os.fspath, split.filepaths)), ends)


def _decode(video_id: str, record: bytes) -> Video:
    """Read a record as `VideoCorpus` describes it; TFDS' own reader takes four times as long."""
    feature = tf_example_pb2.Example.FromString(record).features.feature  # pyright: ignore

    def binary(name: str) -> bytes:
        return feature[name].bytes_list.value[0]

    def integer(name: str) -> int:
        return feature[name].int64_list.value[0]

    index = FrameIndex(
        frame_times=np.frombuffer(binary("frame_times"), np.float64),
        key_frames=np.frombuffer(binary("key_frames"), np.int64),
        duration=float(np.frombuffer(binary("duration"), np.float64)[0]),
        first_pts=integer("first_pts"),
        width=integer("width"),
        height=integer("height"),
        rotation=integer("rotation"),
        is_reflected=bool(integer("is_reflected")),
    )
    return Video(video_id=video_id, data=binary("data"), index=index, health=_health(binary("health")))


def _health(text: bytes) -> Health:
    facts = json.loads(text)
    facts["damaged_ranges"] = tuple((start, end) for start, end in facts["damaged_ranges"])
    facts["notes"] = tuple(facts["notes"])
    return Health(**facts)


def open_corpus(data_dir: str | Path) -> Corpus:
    """Open the videos of a data directory.

    Raises:
      UserError: there is no such directory, or no prepare command of this version made it.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise UserError(f"no data directory {data_dir}; make one with `clipbert prepare`")
    ids_path = data_dir / "video_ids.json"
    if not ids_path.is_file():
        raise UserError(
            f"{data_dir} is no prepared data directory (no video_ids.json); use `clipbert prepare`"
        )
    if not _dataset_dir(data_dir).is_dir():
        raise UserError(f"{data_dir} was made by another version; prepare it again with `clipbert prepare`")
    try:
        ids = json.loads(ids_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{ids_path} is no JSON ({error}); prepare the data again") from error
    return Corpus(data_dir, tuple(ids))


def videos_sha256(data_dir: str | Path) -> str:
    """Return a fingerprint of what the videos of a data directory hold; "" if an older version made it.

    Made while the videos were stored, as reading them at every start would take too long. It does not depend
    on how they are divided into shards, nor on where their files were.
    """
    path = Path(data_dir) / _SHA256
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _dataset_dir(data_dir: Path) -> Path:
    return data_dir / "videos" / "video_corpus" / FORMAT_VERSION
