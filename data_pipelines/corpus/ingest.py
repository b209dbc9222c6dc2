"""Builds a data directory in parallel; a killed build continues where it was, to the same bytes.

`folder`, `dataset` and the synthetic corpora call it. It writes to the sibling `<data_dir>.partial/` and
renames `data/` in there when it is complete; until then an older data directory stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clipbert_jax.errors import UserError
from data_pipelines.corpus.entry import CorpusEntry
from data_pipelines.corpus.storage import Original, StorageForm, duration_in_words, store
from data_pipelines.corpus.video_source import VideoSource
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import UnreadableVideo
from data_pipelines.transforms import check_aspect_ratio
from data_pipelines.workers.isolation import Failure, Isolated, TimeLimit, file_time_limit

NUM_SHOWN = 20
"""Number of bad videos that a report names; a file lists all of them."""

OnProgress = Callable[[int], None]
"""Called with the number of videos done so far."""


def silently(done: int) -> None:
    """Default progress callback: does nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """Options for checking and storing videos."""

    storage: StorageForm = Original()
    on_error: Literal["skip", "error"] = "skip"
    """Effect of a bad video: leave it out and list it, or stop the build."""
    decode_timeout: float | None = None
    """Time limit for one video in seconds; None sets it by its size and its frames."""
    num_workers: int = 2
    """Number of processes; with 0 this process does the work, and a bad video may crash it."""
    beam: tuple[str, ...] | None = None
    """Arguments of an Apache Beam pipeline; None builds the shards on this machine."""
    beam_dir: str | None = None
    """The Beam workers' URI of the folder that the data directory is in; default: its path."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestReport:
    """Counts of what was stored, reasons for what was not, and the effect of the storage form."""

    form: StorageForm
    video_ids: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    """Pairs (video id, reason)."""
    num_bytes_before: int
    num_bytes_after: int
    num_frames_before: int
    num_frames_after: int
    max_time_error_seconds: float

    @property
    def bad_share(self) -> float:
        """Share of all videos that could not be stored."""
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
    """A file for a worker to turn into a corpus entry."""

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

    It keeps the finished shards of an earlier, killed run with the same videos and options.

    Args:
      data_dir: the directory from `new_data_dir`.
      source: the source of the files.
      wanted: name in the source of each video id.
      options: options for checking and storing.
      on_progress: called with the number of videos done so far.

    Raises:
      UserError: the unfinished build here is of other videos, the disk is full, or a video is bad and
        `on_error` is "error".
    """
    files = [
        _File(video_id=video_id, name=name, num_bytes=source.size(name), source=source, form=options.storage)
        for video_id, name in sorted(wanted.items())
    ]
    facts = [repr(options.storage), *(f"{f.video_id}\t{f.name}\t{f.num_bytes}" for f in files)]
    time_limit = functools.partial(_time_limit, seconds=options.decode_timeout)
    report = build_shards(data_dir, entry_of_file, files, facts, options, time_limit, on_progress)
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
    time_limit: Callable[[Any], TimeLimit] | float,
    on_progress: OnProgress = silently,
) -> IngestReport:
    """Turn items into corpus entries in worker processes, and write the dataset.

    Args:
      data_dir: the directory from `new_data_dir`.
      function: a module's function that turns an item into a CorpusEntry or a Failure.
      items: objects with a `video_id`, in the order of the corpus.
      facts: everything that the result depends on, which identifies an earlier run.
      options: options for storing.
      time_limit: seconds for one item, or a function that returns its limit.
      on_progress: called with the number of videos done so far.

    Raises:
      UserError: see `ingest`.
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

            build_on_beam(work, function, time_limit, options.beam, options.beam_dir)
        else:
            with _outcomes(function, todo, options, time_limit) as outcomes:
                for number in unfinished:
                    work.write(number, outcomes, note)
        total = work.finish()
    if total.unreadable and options.on_error == "error":  # found by an earlier run with "skip"
        raise UnreadableVideo(*total.unreadable[0])
    fields = {f.name for f in dataclasses.fields(IngestReport)} - {"form"}
    return IngestReport(form=options.storage, **{name: getattr(total, name) for name in fields})


@contextlib.contextmanager
def _outcomes(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    options: IngestOptions,
    time_limit: Callable[[Any], TimeLimit] | float,
) -> Iterator[Iterator[Any]]:
    if options.num_workers == 0:
        yield map(function, items)
        return
    with Isolated(options.num_workers) as isolated:
        yield isolated.map(function, items, time_limit=time_limit)


def entry_of_file(file: _File) -> CorpusEntry | Failure:
    """Examine a file and convert it to its storage form; return a Failure with the reason if that fails."""
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


def _time_limit(file: _File, seconds: float | None) -> TimeLimit:
    """Return the time limit of a file; encoding takes many times as long as decoding."""
    limit = file_time_limit(file.num_bytes, seconds)
    if seconds is not None:
        return limit
    is_encoded = not isinstance(file.form, Original)
    seconds = max(600.0, 10.0 * limit.seconds) if is_encoded else max(60.0, limit.seconds)
    return dataclasses.replace(limit, seconds=seconds)


@contextlib.contextmanager
def _explained_disk_full(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord raises the latter
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error):
            raise
        raise UserError(
            f"the disk of {data_dir.parent} is full; free some space, and the same command continues"
        ) from error


@contextlib.contextmanager
def new_data_dir(data_dir: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a directory that becomes `data_dir` when the block ends without an exception.

    The directory holds only the videos that an earlier, killed run stored. After an exception the sibling
    `<data_dir>.partial` stays if it holds stored videos, and the same command continues there.

    Raises:
      UserError: `data_dir` exists and may not be replaced, it cannot be made, or another process is building
        it.
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
            elif not isinstance(error, UserError):  # its message says what to do
                error.add_note(f"{partial} keeps what is done; the same command continues there")
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
        raise UserError(f"{data_dir} is not a data directory (it has no prepare.json); remove it yourself")


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Keep other processes out of the folder; the lock ends with this process, however that ends."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = (partial / "lock").open("w")
    except OSError as error:  # such as a file in the way, no permission, no space
        raise UserError(
            f"cannot make a directory in {partial.parent} ({error.strerror}); choose another --data-dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is building {partial}; wait for it to end, or stop it"
            ) from error
        yield


def _cleared(new_dir: Path) -> Path:
    """Make the directory, and remove everything that an earlier run left except its stored videos."""
    shutil.rmtree(new_dir.with_name("replaced"), ignore_errors=True)
    if not new_dir.exists():  # killed after the last rename: the shards of the journals are in use
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
    packages = ("av", "opencv-python-headless", "pillow", "tensorflow-datasets", "array_record")
    return {name: importlib.metadata.version(name) for name in packages}
