"""Training metrics on disk: JSON lines to read by program, TensorBoard files to look at."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class MetricsWriter:
    """Append one record per logged step to `metrics.jsonl` and `tensorboard/`.

    On a resumed run the records after `first_step` are dropped first: those steps will be run again,
    and a step must not appear twice.
    """

    def __init__(self, workdir: Path, *, first_step: int) -> None:
        from tensorboardX import SummaryWriter  # slow to import; needed by process 0 of a training run only

        self.path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(workdir) if line["step"] <= first_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self.path)
        self._file = self.path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record; it holds `step` and numbers."""
        self._file.write(json.dumps(_finite(record)) + "\n")
        self._file.flush()
        for name, value in record.items():
            if name != "step":
                self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._board.close()


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
