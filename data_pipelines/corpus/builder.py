"""Stage 1 of the corridor: the corpus, a TFDS dataset in which each video is stored once.

Written by the prepare functions, read at random by video id. Files are ArrayRecord; TensorFlow is not
needed. A data directory:

    videos/                     the dataset: original bytes + frame index of every video
    video_ids.json              ids in the order of the dataset
    annotations/<kind>/<split>.jsonl
    samples/                    some videos as files (embedded corpus only)
    vocab.txt                   WordPiece vocabulary
    prepare.json                what was built, and what could not be
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from clipbert_jax.errors import UserError
from data_pipelines.decode import FrameIndex

FORMAT_VERSION = "1.0.0"
_SPLIT = "videos"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """One video of a corpus: the original file's bytes and the index of its frames."""

    video_id: str
    data: bytes
    index: FrameIndex


class VideoCorpus(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of every corpus; what differs is where the videos come from."""

    VERSION = tfds.core.Version(FORMAT_VERSION)
    RELEASE_NOTES: ClassVar = {
        FORMAT_VERSION: "One record per video: bytes, frame times, key frames, size, duration."
    }
    url_infos: ClassVar[
        dict[str, Any]
    ] = {}  # nothing to download; TFDS would look for checksums in the package

    def __init__(self, *, videos: Iterable[Video] = (), **kwargs: Any):
        self._videos = videos
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def float64(*shape: int | None) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=np.float64, encoding="bytes")  # else float32

        integer = tfds.features.Scalar(np.int64)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Videos with the time of every frame.",
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {
                    "video_id": tfds.features.Text(),
                    "data": tfds.features.Text(doc="The original file, unchanged."),
                    "frame_times": float64(None),
                    "key_frames": tfds.features.Tensor(shape=(None,), dtype=np.int64),
                    "duration": float64(),
                    "first_pts": integer,
                    "width": integer,
                    "height": integer,
                    "rotation": integer,
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {_SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for video in self._videos:
            fields = {f.name: getattr(video.index, f.name) for f in dataclasses.fields(FrameIndex)}
            yield video.video_id, {"video_id": video.video_id, "data": video.data, **fields}


class Corpus:
    """Random access to the videos of a data directory; cheap to send to worker processes."""

    def __init__(self, data_dir: Path, ids: tuple[str, ...]):
        self.data_dir = data_dir
        self.ids = ids
        self._row_of = {video_id: row for row, video_id in enumerate(ids)}
        self._source: Any = None

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._row_of

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.data_dir, self.ids)

    def read(self, video_id: str) -> Video:
        """Return a video.

        Raises:
          UserError: the corpus has no such video.
        """
        if video_id not in self._row_of:
            raise UserError(
                f"no video {video_id!r} in {self.data_dir}; its video_ids.json lists those it has"
            )
        if self._source is None:  # opened where it is used: in the worker process
            builder = tfds.builder_from_directory(self.data_dir / "videos" / "video_corpus" / FORMAT_VERSION)
            self._source = builder.as_data_source(split=_SPLIT)  # pyright: ignore[reportCallIssue]
        record = self._source[self._row_of[video_id]]
        fields = {field.name: record[field.name] for field in dataclasses.fields(FrameIndex)}
        fields["duration"] = float(fields["duration"])
        return Video(video_id=video_id, data=record["data"], index=FrameIndex(**fields))


def write_videos(data_dir: Path, videos: Iterable[Video]) -> tuple[str, ...]:
    """Write the dataset of a data directory and return the ids in its order."""
    ids: list[str] = []

    def recorded() -> Iterator[Video]:
        for video in videos:
            ids.append(video.video_id)
            yield video

    tfds.disable_progress_bar()
    builder = VideoCorpus(videos=recorded(), data_dir=data_dir / "videos")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces downloads that do not happen
        builder.download_and_prepare()
    (data_dir / "video_ids.json").write_text(json.dumps(ids), encoding="utf-8")
    return tuple(ids)


def open_corpus(data_dir: str | Path) -> Corpus:
    """Open the videos of a data directory.

    Raises:
      UserError: there is no such directory, or it was not made by a prepare command.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise UserError(f"no data directory {data_dir}; make one with `clipbert prepare`")
    ids_path = data_dir / "video_ids.json"
    if not ids_path.is_file():
        raise UserError(
            f"{data_dir} is no prepared data directory (no video_ids.json); use `clipbert prepare`"
        )
    return Corpus(data_dir, tuple(json.loads(ids_path.read_text(encoding="utf-8"))))
