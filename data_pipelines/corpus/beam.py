"""Beside `ingest`: builds the shards of a corpus on Apache Beam, for corpora of millions of videos.

Each element of the pipeline is a shard. A worker builds it with the function that builds it locally, on its
own disk, and copies it to where the data directory is being built, so the result is the same to the byte, and
finished shards are not built again. Plan and last step stay with the process that starts the pipeline.
"""

# pyright: reportMissingImports=false
# The extra is not among the development tools: it needs an environment of its own.

from __future__ import annotations

import functools
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from data_pipelines.corpus.isolation import Isolated
from data_pipelines.corpus.shards import ShardedWork, build_shard, shard_name


def build_on_beam(
    work: ShardedWork,
    function: Callable[[Any], Any],
    timeout_seconds: Callable[[Any], float] | float,
    arguments: Sequence[str],
    data_dir_parent: str | None = None,
) -> None:
    """Build all shards that are not finished.

    Args:
      work: the shards; its folder must be seen by this process and, as itself or as a URI, by the workers.
      function: makes an Entry or a Failure of an item, in a process of its own.
      timeout_seconds: for one item, or a function that says it.
      arguments: of the pipeline, such as `--runner=FlinkRunner`.
      data_dir_parent: what workers call the folder of the data directory, such as `gs://bucket/data`.

    Raises:
      UserError: Apache Beam is not installed; the pipeline failed, and finished shards are kept.
    """
    beam = _import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    partial = work.work_dir.parent
    destination = str(work.work_dir)
    if data_dir_parent is not None:
        destination = f"{data_dir_parent.rstrip('/')}/{partial.name}/{work.work_dir.name}"
    shards = [(number, list(work.shards[number])) for number in work.unfinished()]
    if not shards:
        return
    options = PipelineOptions(list(arguments), save_main_session=False)
    build = functools.partial(build_shard_at, destination, function=function, timeout_seconds=timeout_seconds)
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = pipeline | beam.Create(shards) | beam.Reshuffle() | beam.Map(build)
    except RuntimeError as error:  # what went wrong in a worker, as text
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"the Beam pipeline failed ({reason}); finished shards are kept, and the same command goes on"
        ) from error
    if missing := work.unfinished():
        raise UserError(
            f"{len(missing)} shards written to {destination} do not appear in {work.work_dir}; --beam-dir "
            f"must be what workers call {partial.parent}"
        )


def build_shard_at(
    destination: str,
    shard: tuple[int, list[Any]],
    *,
    function: Callable[[Any], Any],
    timeout_seconds: Callable[[Any], float] | float,
) -> int:
    """Build one shard on this machine's disk, copy it to its destination, and return its number."""
    from apache_beam.io.filesystems import FileSystems

    number, items = shard
    with tempfile.TemporaryDirectory() as folder, Isolated(1) as isolated:
        build_shard(
            Path(folder), number, items, isolated.map(function, items, timeout_seconds=timeout_seconds)
        )
        for suffix in (".array_record", ".json"):  # the journal last: it says that the shard is finished
            name = f"{shard_name(number)}{suffix}"
            copy = FileSystems.join(destination, f"{name}.copy")
            with (Path(folder) / name).open("rb") as local, FileSystems.create(copy) as remote:
                shutil.copyfileobj(local, remote)
            FileSystems.rename([copy], [FileSystems.join(destination, name)])
    return number


class RemoteFolder:
    """A `VideoSource` that workers reach by a URI, such as `gs://bucket/videos`."""

    def __init__(self, uri: str | Path):
        # A path has lost one of its slashes.
        self.uri = re.sub(r"^(\w+):/+", r"\1://", str(uri)).rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFolder, (self.uri,)

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        _import_beam()
        from apache_beam.io.filesystems import FileSystems

        (match,) = FileSystems.match([f"{self.uri}/**"])
        sizes = {file.path[len(self.uri) + 1 :]: file.size_in_bytes for file in match.metadata_list}
        if not sizes:
            raise UserError(f"no videos in {self.uri}; put files such as .mp4, .webm or .mkv there")
        return sizes

    @property
    def names(self) -> tuple[str, ...]:
        """'/'-separated names below the URI, sorted, without hidden ones."""
        return tuple(sorted(name for name in self._sizes if not _is_hidden(name)))

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        from apache_beam.io.filesystems import FileSystems

        with FileSystems.open(f"{self.uri}/{name}", "application/octet-stream", "uncompressed") as file:
            return file.read()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _import_beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise UserError(
            "Apache Beam is not installed; make an environment with pip install '.[beam]'"
        ) from error
    return apache_beam
