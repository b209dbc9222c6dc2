"""Builds the shards of a corpus on Apache Beam, for corpora of millions of videos; `ingest` calls it.

Each element of the pipeline is a shard. A worker builds it on its own disk, with the function of a local
build, and copies it to the data directory that is being built. The result is the same to the byte, and
finished shards are not built again. The process that starts the pipeline makes the plan and takes the last
step.
"""

# pyright: reportMissingImports=false
# The extra is not among the development tools: it needs an environment of its own.

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from data_pipelines.corpus.remote_folder import import_beam
from data_pipelines.corpus.shards import ShardedWork, build_shard, shard_name
from data_pipelines.workers.isolation import Isolated, TimeLimit


def build_on_beam(
    work: ShardedWork,
    function: Callable[[Any], Any],
    time_limit: Callable[[Any], TimeLimit] | float,
    arguments: Sequence[str],
    data_dir_parent: str | None = None,
) -> None:
    """Build all shards that are not finished.

    Args:
      work: the shards; this process and the workers must both reach its folder.
      function: turns an item into a CorpusEntry or a Failure, in a process of its own.
      time_limit: seconds for one item, or a function that returns its limit.
      arguments: arguments of the pipeline, such as `--runner=FlinkRunner`.
      data_dir_parent: the workers' path or URI of the folder that the data directory is in.

    Raises:
      UserError: Apache Beam is not installed, or the pipeline failed.
    """
    beam = import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    partial = work.work_dir.parent
    destination = str(work.work_dir)
    if data_dir_parent is not None:
        destination = f"{data_dir_parent.rstrip('/')}/{partial.name}/{work.work_dir.name}"
    shards = [(number, list(work.shards[number])) for number in work.unfinished()]
    if not shards:
        return
    options = PipelineOptions(list(arguments), save_main_session=False)
    build = functools.partial(build_shard_at, destination, function=function, time_limit=time_limit)
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = pipeline | beam.Create(shards) | beam.Reshuffle() | beam.Map(build)
    except RuntimeError as error:  # what went wrong in a worker, as text
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"the Beam pipeline failed ({reason}); the same command continues after the finished shards"
        ) from error
    if missing := work.unfinished():
        raise UserError(
            f"{len(missing)} shards written to {destination} do not appear in {work.work_dir}; set "
            f"--beam-dir to the workers' path of {partial.parent}"
        )


def build_shard_at(
    destination: str,
    shard: tuple[int, list[Any]],
    *,
    function: Callable[[Any], Any],
    time_limit: Callable[[Any], TimeLimit] | float,
) -> int:
    """Build one shard on this machine's disk, copy it to its destination, and return its number."""
    from apache_beam.io.filesystems import FileSystems

    number, items = shard
    with tempfile.TemporaryDirectory() as folder, Isolated(1) as isolated:
        build_shard(Path(folder), number, items, isolated.map(function, items, time_limit=time_limit))
        for suffix in (".array_record", ".json"):  # the journal last: it says that the shard is finished
            name = f"{shard_name(number)}{suffix}"
            copy = FileSystems.join(destination, f"{name}.copy")
            with (Path(folder) / name).open("rb") as local, FileSystems.create(copy) as remote:
                shutil.copyfileobj(local, remote)
            FileSystems.rename([copy], [FileSystems.join(destination, name)])
    return number
