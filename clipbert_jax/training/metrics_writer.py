"""Training metrics on disk: JSON lines for programs, and files for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import unwritable

_FLUSH_SECONDS = 10.0
"""Time between two flushes of TensorBoard's file; training waits for each."""


class MetricsWriter:
    """Appends records to `metrics.jsonl` and to a file in `tensorboard/`.

    It first drops the records after `first_step`, as those steps are made again.
    """

    def __init__(self, workdir: Path, *, first_step: int) -> None:
        self.path = workdir / "metrics.jsonl"
        drop_after(self.path, first_step)
        self._file = self.path.open("a")
        with naming(workdir / "tensorboard"):
            self._events = _EventFile(workdir / "tensorboard", first_step=first_step)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record, which has `step` and numbers."""
        with naming(self.path):
            self._file.write(json.dumps(_finite(record)) + "\n")
            self._file.flush()
        with naming(self._events.directory):
            self._events.write(record)

    def close(self) -> None:
        """Flush and close both files."""
        try:
            with naming(self._events.directory):
                self._events.close()
        finally:
            with naming(self.path):
                self._file.close()


class _EventFile:
    """A file for TensorBoard, written by tensorboardX's writer of records.

    Its writers of events do not survive a full disk: the thread of one dies, and training then waits for it
    for ever; the other leaves its file open, and Python prints a second error at the end.
    """

    def __init__(self, directory: Path, *, first_step: int) -> None:
        # Late: slow to import, and only process 0 of a training needs it.
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import RecordWriter

        self._event_proto: Any = event_pb2
        self._summary_proto: Any = summary_pb2
        self.directory = directory
        directory.mkdir(exist_ok=True)
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds}.{socket.gethostname()}.{os.getpid()}.{nanoseconds}"
        self._records = RecordWriter(str(directory / name))
        self._flush_time = time.monotonic()
        self._write(file_version="brain.Event:2")
        session_log = self._event_proto.SessionLog
        start = session_log(status=session_log.START)
        # It makes TensorBoard forget the later steps of earlier files.
        self._write(step=first_step + 1, session_log=start)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write all numbers of a step."""
        summary = self._summary_proto.Summary
        numbers = {name: float(value) for name, value in record.items() if name != "step"}
        values = [summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._write(step=record["step"], summary=summary(value=values))
        if time.monotonic() - self._flush_time > _FLUSH_SECONDS:
            self._records.flush()
            self._flush_time = time.monotonic()

    def close(self) -> None:
        """Close the file, even if the rest cannot be written."""
        self._records.close()

    def _write(self, **event: Any) -> None:
        self._records.write(self._event_proto.Event(wall_time=time.time(), **event).SerializeToString())


def drop_after(path: Path, step: int) -> None:
    """Drop the records of the steps after this one, which are made again; create the file if it is new."""
    kept = [record for record in read_json_lines(path) if record.get("step", step + 1) <= step]
    with naming(path):
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of writing name the file of the run and the remedy.

    Raises:
      UserError: the block could not write.
    """
    try:
        yield
    except OSError as error:
        remedy = "look at the space and the permissions there; the same command continues the run"
        raise unwritable(path, error, remedy) from error


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Return the records of a run, even if a kill has cut off the last line.

    Numbers that JSON lacks are strings, such as "nan", that `float` takes.
    """
    records = read_json_lines(workdir / "metrics.jsonl")
    return [record for record in records if isinstance(record.get("step"), int)]


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file; a missing file has none, and broken lines are left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinities, which JSON lacks, by their names."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
