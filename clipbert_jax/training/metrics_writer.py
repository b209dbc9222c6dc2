"""Training metrics on disk: JSON lines to read by program, TensorBoard files to look at."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipbert_jax.errors import TemporaryError, UserError, is_temporary


class MetricsWriter:
    """Append one record per logged step to `metrics.jsonl` and `tensorboard/`.

    On a resumed run the records after `first_step` are dropped first: those steps will be run again,
    and a step must not appear twice.
    """

    def __init__(self, workdir: Path, *, first_step: int) -> None:
        from tensorboardX import SummaryWriter  # slow to import; needed by process 0 of a training run only

        self.path = workdir / "metrics.jsonl"
        drop_after(self.path, first_step)
        self._file = self.path.open("a")
        self._board: Any = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record; it holds `step` and numbers."""
        with naming(self.path):
            self._file.write(json.dumps(_finite(record)) + "\n")
            self._file.flush()
            for name, value in record.items():
                if name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flush and close both files."""
        events = self._board.file_writer.event_writer
        with naming(self.path):
            try:
                self._board.close()
            except OSError:
                events.close = lambda: None  # which tensorboardX calls at the exit, to fail once more
                raise
            finally:
                self._file.close()


def drop_after(path: Path, step: int) -> None:
    """Forget the records of steps after this one, which will be done again; the file appears if it is new."""
    kept = [record for record in read_json_lines(path) if record.get("step", step + 1) <= step]
    temporary = path.with_suffix(".tmp")
    with naming(path):
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.replace(path)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of writing say which file of the run it was, and how to go on; the system does not.

    Raises:
      UserError: the block could not write.
    """
    try:
        yield
    except OSError as error:
        raise (TemporaryError if is_temporary(error) else UserError)(
            f"{path} cannot be written ({error.strerror}): look at the space and the permissions there; the "
            "same command then goes on from the newest checkpoint"
        ) from error


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Return the records of a run, whether it goes on, has ended or was killed in the middle of a line.

    Numbers that JSON lacks are the names that `float` takes.
    """
    records = read_json_lines(workdir / "metrics.jsonl")
    return [record for record in records if isinstance(record.get("step"), int)]


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file that may be missing, or be written just now; other lines are left out."""
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
    """Replace NaN and infinities, which JSON does not have, by their names."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
