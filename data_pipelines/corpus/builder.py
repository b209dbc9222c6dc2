"""Defines the corpus, a TFDS dataset that stores each video once, and writes its files.

`shards` calls it; `reader` reads what it writes. The files are ArrayRecord; TensorFlow is not needed. A data
directory:

    videos/                     the dataset: bytes, frame index, health and origin of every video
    video_ids.json              ids in the order of the dataset
    videos.sha256               one fingerprint of the content of all videos
    unreadable.tsv              unreadable videos and the reasons (only if there are any)
    annotations/<kind>/<split>.jsonl
    samples/                    some videos as files (synthetic corpus only)
    vocab.txt                   WordPiece vocabulary
    prepare.json                what was built, and what could not be
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.splits import SplitDict

from clipbert_jax.atomic_files import replacing
from data_pipelines.corpus.entry import CorpusEntry
from data_pipelines.corpus.reader import FORMAT_VERSION, SHA256, SPLIT, dataset_dir
from data_pipelines.corpus.storage import StoredVideo
from data_pipelines.decoding.video import FrameIndex, Video

_INDEX_FIELDS = tuple(field.name for field in dataclasses.fields(FrameIndex))


class _OwnInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Override the look-up of this dataset in Google's bucket, which leaves a temporary folder behind."""


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
            """Return a feature stored as bytes: lists of the format lack float64 and are slow."""
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
                    "pixel_aspect": binary(np.float64),
                    "is_interlaced": tfds.features.Scalar(np.bool_),
                    "health": tfds.features.Text(doc="JSON: what a full decode of the original found."),
                    "storage": tfds.features.Text(doc="JSON: the form, and what it did to frame times."),
                    "source_name": tfds.features.Text(doc="Name of the original file in its source."),
                    "source_sha256": tfds.features.Text(doc="SHA-256 of the original file."),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        raise NotImplementedError("a corpus is written by `clipbert prepare`")

    def _generate_examples(self) -> Iterator[Any]:
        raise NotImplementedError("a corpus is written by `clipbert prepare`")


class RecordEncoder:
    """Encodes records: the same bytes for the same video, in any process."""

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
    """Return the path where TFDS looks for a shard."""
    name = f"video_corpus-{SPLIT}.array_record-{number:05d}-of-{num_shards:05d}"
    return dataset_dir(data_dir) / name


def video_digest(video: Video) -> str:
    """Return a fingerprint of the stored bytes and the frame index, from which frames are decoded."""
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
    """Write the files beside the shards that TFDS, `open_corpus` and `videos_sha256` need.

    Args:
      data_dir: the data directory that is being built.
      ids: ids of the videos, in the order of the dataset.
      shard_lengths: number of videos in each shard.
      num_bytes: size of all records.
      digests: `video_digest` of each video.
    """
    for path in dataset_dir(data_dir).glob("*.json"):
        path.unlink()  # TFDS would continue with the files of an interrupted build, and write other ones
    builder = VideoCorpus(data_dir=data_dir / "videos")
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=list(shard_lengths),
        num_bytes=num_bytes,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(dataset_dir(data_dir)),
            dataset_name="video_corpus",
            split=SPLIT,
            filetype_suffix="array_record",
        ),
    )
    dataset_dir(data_dir).mkdir(parents=True, exist_ok=True)
    builder.info.set_splits(SplitDict([split]))
    builder.info.write_to_directory(dataset_dir(data_dir))
    (data_dir / "video_ids.json").write_text(json.dumps(list(ids)), encoding="utf-8")
    total = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    (data_dir / SHA256).write_text(f"{total}\n", encoding="utf-8")
