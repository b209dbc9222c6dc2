"""Records every start of a training in the run directory: command, versions, devices and end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.runtime.provenance import environment, now, write_json

ENVIRONMENT = "environment.json"
"""File of a run directory with `{"starts": [...]}`, the first start first."""


@contextlib.contextmanager
def noted_start(workdir: Path) -> Iterator[None]:
    """Write down the start of a training, and its end unless it is killed; only on process 0."""
    if jax.process_index() != 0:
        yield
        return
    start = {**environment(), "num_processes": jax.process_count()}
    path, starts = workdir / ENVIRONMENT, read_starts(workdir)

    def note(**end: str) -> None:
        write_json(path, {"starts": [*starts, {**start, **end}]})

    note()
    try:
        yield
    except BaseException as error:
        is_request = isinstance(error, KeyboardInterrupt | SystemExit)
        how = "stopped" if is_request else f"failed: {type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # perhaps the disk is full; the user must read the first error
            note(ended=now(), how=how)
        raise
    note(ended=now(), how="done")


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """Return the starts of a run; empty if the file is missing or broken."""
    try:
        starts = json.loads((workdir / ENVIRONMENT).read_text(errors="replace"))["starts"]
        return [dict(start) for start in starts]
    except (OSError, ValueError, KeyError, TypeError):
        return []
