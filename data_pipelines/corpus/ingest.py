"""Builds a data directory, in parallel: a killed build goes on where it was, to the same bytes.

Before: `sources`; after: `builder` reads what is written here by `shards`. Everything goes to the sibling
`<data_dir>.partial/`, whose `data/` is renamed when it is complete; until then an older data directory stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clipbert_jax.errors import UserError
from data_pipelines.corpus.entry import CorpusEntry
from data_pipelines.corpus.sources import VideoSource
from data_pipelines.corpus.storage import Original, StorageForm, duration_in_words, store
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import UnreadableVideo
from data_pipelines.transforms import check_aspect_ratio
from data_pipelines.workers.isolation import Failure, Isolated, time_limit_seconds

NUM_SHOWN = 20
"""Bad videos that a report names; a file lists all."""

OnProgress = Callable[[int], None]
"""Called with the number of videos done so far."""


def silently(done: int) -> None:
    """Take note of nothing: what is called where nobody wants to know how far it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """How videos are checked and stored."""

    storage: StorageForm = Original()
    on_error: Literal["skip", "error"] = "skip"
    """What a bad video does: it is left out and listed, or it ends everything."""
    num_workers: int = 2
    """Processes; 0 works in this one, where a bad video may crash it. The result does not depend on it."""
    beam: tuple[str, ...] | None = None
    """Arguments of an Apache Beam pipeline that builds the shards instead of this machine."""
    beam_dir: str | None = None
    """URI by which Beam's workers know the folder of the data directory; its path by default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What was stored, what was not and why, and what the storage form did."""

    form: StorageForm
    video_ids: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    """(video id, reason)."""
    num_bytes_before: int
    num_bytes_after: int
    num_frames_before: int
    num_frames_after: int
    max_time_error_seconds: float

    @property
    def bad_share(self) -> float:
        """The share of all videos that could not be stored."""
        return len(self.unreadable) / max(1, len(self.unreadable) + len(self.video_ids))

    def __str__(self) -> str:
        name = type(self.form).__name__.lower()
        lines = [
            f"{len(self.video_ids):,} videos stored as {name}: "
            f"{self.num_bytes_before:,} -> {self.num_bytes_after:,} bytes, "
            f"{self.num_frames_before:,} -> {self.num_frames_after:,} frames, "
            f"times within {duration_in_words(self.max_time_error_seconds)}"
        ]
        shown = self.unreadable[:NUM_SHOWN]
        lines += [f"could not read {name}: {reason}" for name, reason in shown]
        if len(self.unreadable) > NUM_SHOWN:
            lines.append(f"and {len(self.unreadable) - NUM_SHOWN:,} more; unreadable.tsv lists them all")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    """What a worker needs to make a corpus entry of a file."""

    video_id: str
    name: str
    num_bytes: int
    source: VideoSource
    form: StorageForm


def ingest(
    data_dir: Path,
    source: VideoSource,
    wanted: Mapping[str, str],
    options: IngestOptions,
    on_progress: OnProgress = silently,
) -> IngestReport:
    """Examine and store videos: `videos/`, `video_ids.json` and `unreadable.tsv` of a data directory.

    Finished shards of an earlier, killed run are kept if it was given the same.

    Args:
      data_dir: being built, from `new_data_dir`.
      source: of the files.
      wanted: video id -> name in the source.
      options: how.
      on_progress: called with the number of videos done so far.

    Raises:
      UserError: another ingest began here; the disk is full; a bad video, if `on_error` says so.
    """
    files = [
        _File(video_id=video_id, name=name, num_bytes=source.size(name), source=source, form=options.storage)
        for video_id, name in sorted(wanted.items())
    ]
    facts = [repr(options.storage), *(f"{f.video_id}\t{f.name}\t{f.num_bytes}" for f in files)]
    report = build_shards(data_dir, entry_of_file, files, facts, options, _time_limit, on_progress)
    if report.unreadable:
        rows = "".join(f"{video_id}\t{reason}\n" for video_id, reason in report.unreadable)
        (data_dir / "unreadable.tsv").write_text(f"video_id\treason\n{rows}", encoding="utf-8")
    return report


def build_shards(
    data_dir: Path,
    function: Callable[[Any], Any],
    items: Sequence[Any],
    facts: Sequence[str],
    options: IngestOptions,
    timeout_seconds: Callable[[Any], float] | float,
    on_progress: OnProgress = silently,
) -> IngestReport:
    """Write the dataset of what a function makes of items, a CorpusEntry or a Failure each.

    Args:
      data_dir: being built.
      function: of a module; runs in worker processes.
      items: with a `video_id` each, in the order of the corpus.
      facts: all that the result depends on, to know an earlier run by.
      options: how.
      timeout_seconds: for one item, or a function that says it.
      on_progress: called with the number of videos done so far.

    Raises:
      UserError: as `ingest`.
    """
    from data_pipelines.corpus.shards import ShardedWork  # late: keeps worker processes light

    work = ShardedWork(data_dir, items, [json.dumps(_versions()), *facts])
    unfinished = work.unfinished()
    todo = [item for number in unfinished for item in work.shards[number]]
    num_done = len(items) - len(todo)

    def note(item: Any, outcome: Any) -> None:
        nonlocal num_done
        if isinstance(outcome, Failure) and options.on_error == "error":
            raise UnreadableVideo(item.video_id, outcome.reason)
        num_done += 1
        on_progress(num_done)

    with _explained_disk_full(data_dir):
        if options.beam is not None:
            from data_pipelines.corpus.beam import build_on_beam  # late: an extra

            build_on_beam(work, function, timeout_seconds, options.beam, options.beam_dir)
        else:
            with _outcomes(function, todo, options, timeout_seconds) as outcomes:
                for number in unfinished:
                    work.write(number, outcomes, note)
        total = work.finish()
    if total.unreadable and options.on_error == "error":  # found by an earlier run that was to skip
        raise UnreadableVideo(*total.unreadable[0])
    fields = {f.name for f in dataclasses.fields(IngestReport)} - {"form"}
    return IngestReport(form=options.storage, **{name: getattr(total, name) for name in fields})


@contextlib.contextmanager
def _outcomes(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    options: IngestOptions,
    timeout_seconds: Callable[[Any], float] | float,
) -> Iterator[Iterator[Any]]:
    if options.num_workers == 0:
        yield map(function, items)
        return
    with Isolated(options.num_workers) as isolated:
        yield isolated.map(function, items, timeout_seconds=timeout_seconds)


def entry_of_file(file: _File) -> CorpusEntry | Failure:
    """Examine a file and bring it into its storage form: a CorpusEntry, or a Failure with the reason."""
    try:
        data = file.source.read(file.name)
        video = examine_video(data, video_id=file.video_id)
        check_aspect_ratio(video.index.height, video.index.width)
        stored = store(video, file.form)
    except UnreadableVideo as error:
        return Failure(error.reason)
    except (UserError, OSError) as error:
        return Failure(str(error))
    checksum = hashlib.sha256(data).hexdigest()
    return CorpusEntry(video=stored, source_name=file.name, source_sha256=checksum)


def _time_limit(file: _File) -> float:
    """Return how long a file may take; one that is bad is found so long before.

    Encoding takes many times as long as decoding, above all where few bytes make many frames.
    """
    limit = time_limit_seconds(file.num_bytes)
    return max(60.0, limit) if isinstance(file.form, Original) else max(600.0, 10.0 * limit)


@contextlib.contextmanager
def _explained_disk_full(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord raises the latter
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error):
            raise
        raise UserError(
            f"the disk of {data_dir.parent} is full; free some space, and the same command goes on"
        ) from error


@contextlib.contextmanager
def new_data_dir(data_dir: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a directory that becomes `data_dir` when the block ends without an exception.

    It is empty but for the videos that an earlier, killed run has stored. After an exception the sibling
    `<data_dir>.partial` stays if it holds stored videos: the same command goes on from there.

    Raises:
      UserError: `data_dir` exists, and `overwrite` is not set or it is no data directory; it cannot be made;
        another process is building it.
    """
    data_dir = Path(data_dir)
    partial = data_dir.with_name(f"{data_dir.name}.partial")
    if (partial / "replaced").exists() and not data_dir.exists():  # killed in between the two renames below
        (partial / "replaced").rename(data_dir)
    _check_target(data_dir, overwrite)
    with _locked(partial):
        try:
            new_dir = _cleared(partial / "data")
            yield new_dir
            if data_dir.exists():
                data_dir.rename(partial / "replaced")
            new_dir.rename(data_dir)
        except BaseException as error:
            if not any(partial.glob("data.ingest/shard-*.json")):
                shutil.rmtree(partial, ignore_errors=True)
            elif not isinstance(error, UserError):  # which says itself what to do
                error.add_note(f"{partial} keeps what is done; the same command goes on from there")
            raise
        shutil.rmtree(partial, ignore_errors=True)


def _check_target(data_dir: Path, overwrite: bool) -> None:
    if data_dir.exists() and not data_dir.is_dir():
        raise UserError(f"{data_dir} is a file; choose another --data-dir")
    if data_dir.exists() and not overwrite:
        raise UserError(
            f"{data_dir} already exists; choose another --data-dir, or replace it with --overwrite"
        )
    if data_dir.exists() and not (data_dir / "prepare.json").is_file():
        raise UserError(
            f"{data_dir} is no data directory (no prepare.json); it is not overwritten, remove it yourself"
        )


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Keep other processes from the same folder; the lock goes with this process, however it ends."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = (partial / "lock").open("w")
    except OSError as error:  # such as a file in the way, no permission, no space
        raise UserError(
            f"no directory can be made in {partial.parent} ({error.strerror}); choose another --data-dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is building {partial}; wait for it, or stop it") from error
        yield


def _cleared(new_dir: Path) -> Path:
    """Make the directory, without what an earlier run left in it besides stored videos."""
    shutil.rmtree(new_dir.with_name("replaced"), ignore_errors=True)
    if not new_dir.exists():  # killed after the last rename: what the journals speak of is in use
        shutil.rmtree(new_dir.with_name(f"{new_dir.name}.ingest"), ignore_errors=True)
    new_dir.mkdir(exist_ok=True)
    for path in new_dir.iterdir():
        if path.is_file():
            path.unlink()
        elif path.name != "videos":
            shutil.rmtree(path)
    return new_dir


def write_summary(data_dir: Path, **facts: Any) -> None:
    """Write prepare.json: the facts, and the versions of what encodes, decodes and stores."""
    (data_dir / "prepare.json").write_text(
        json.dumps({**facts, "versions": _versions()}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _versions() -> dict[str, str]:
    packages = ("av", "opencv-python-headless", "tensorflow-datasets", "array_record")
    return {name: importlib.metadata.version(name) for name in packages}
