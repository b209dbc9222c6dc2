"""Reads the videos of a data directory by their ids, at random.

`builder` writes what is read here. Training, evaluation, reports and `clipbert doctor` call `open_corpus`.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError
from tensorflow_datasets.proto import tf_example_pb2

from clipbert_jax.errors import UserError
from data_pipelines.decoding.video import FrameIndex, Health, UnreadableVideo, Video

FORMAT_VERSION = "2.0.0"
SPLIT = "videos"
"""The one split of the TFDS dataset; the splits of a task are in its annotations."""
SHA256 = "videos.sha256"


def dataset_dir(data_dir: Path) -> Path:
    """Return the folder of the TFDS dataset in a data directory."""
    return data_dir / "videos" / "video_corpus" / FORMAT_VERSION


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
          UserError: the corpus does not have the video, or its description is damaged.
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
        except (RuntimeError, OSError) as error:  # ArrayRecord raises RuntimeError
            raise UnreadableVideo(video_id, self._shards.explain(row, error)) from error
        return _decode(video_id, record)


@dataclasses.dataclass(frozen=True)
class _Shards:
    """The files of a dataset, and the number of records up to the end of each."""

    paths: tuple[str, ...]
    ends: tuple[int, ...]

    def explain(self, row: int, error: Exception) -> str:
        path = self.paths[bisect.bisect_right(self.ends, row)]
        reason = str(error).strip().partition("\n")[0]
        return f"its record in {path} cannot be read ({reason}); restore that file or prepare the data again"


def _open_source(data_dir: Path, num_videos: int) -> tuple[Any, _Shards]:
    """Return the records by number, and the files that hold them."""
    folder = dataset_dir(data_dir)
    try:
        builder = tfds.builder_from_directory(folder)
        split = builder.info.splits[SPLIT]
        source = builder.as_data_source(
            split=SPLIT,  # pyright: ignore[reportCallIssue]
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
        )
    except (OSError, ValueError, KeyError, ParseError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the dataset description in {folder} cannot be read ({reason}); prepare the data again"
        ) from error
    ends = tuple(itertools.accumulate(split.shard_lengths))
    if ends[-1:] != (num_videos,):
        raise UserError(
            f"{data_dir / 'video_ids.json'} names {num_videos} videos, but {folder} has {sum(ends[-1:])}; "
            "prepare the data again"
        )
    return source, _Shards(tuple(map(os.fspath, split.filepaths)), ends)


def _decode(video_id: str, record: bytes) -> Video:
    """Decode a record as `VideoCorpus` describes it, in a quarter of the time of TFDS' own reader."""
    feature = tf_example_pb2.Example.FromString(record).features.feature  # pyright: ignore

    def binary(name: str) -> bytes:
        return feature[name].bytes_list.value[0]

    def integer(name: str) -> int:
        return feature[name].int64_list.value[0]

    # Data prepared by earlier versions lack these, and stay as they were.
    added: dict[str, Any] = {}
    if "pixel_aspect" in feature:
        added["pixel_aspect"] = float(np.frombuffer(binary("pixel_aspect"), np.float64)[0])
        added["is_interlaced"] = bool(integer("is_interlaced"))
    index = FrameIndex(
        frame_times=np.frombuffer(binary("frame_times"), np.float64),
        key_frames=np.frombuffer(binary("key_frames"), np.int64),
        duration=float(np.frombuffer(binary("duration"), np.float64)[0]),
        first_pts=integer("first_pts"),
        width=integer("width"),
        height=integer("height"),
        rotation=integer("rotation"),
        is_reflected=bool(integer("is_reflected")),
        **added,
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
      UserError: the directory does not exist, or a prepare command of this version did not make it.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise UserError(f"no data directory {data_dir}; make one with `clipbert prepare`")
    ids_path = data_dir / "video_ids.json"
    if not ids_path.is_file():
        raise UserError(
            f"{data_dir} is not a data directory: it has no video_ids.json; make one with `clipbert prepare`"
        )
    if not dataset_dir(data_dir).is_dir():
        raise UserError(f"{data_dir} was made by another version; make it again with `clipbert prepare`")
    try:
        ids = json.loads(ids_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{ids_path} is not JSON ({error}); prepare the data again") from error
    return Corpus(data_dir, tuple(ids))


def videos_sha256(data_dir: str | Path) -> str:
    """Return a fingerprint of the videos of a data directory; "" if an older version made it.

    It was made while the videos were stored, because reading them at every start would take too long. It does
    not depend on the shards, nor on the paths of the original files.
    """
    path = Path(data_dir) / SHA256
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
