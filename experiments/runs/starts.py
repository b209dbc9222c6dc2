"""Every start of a training, with the command, the versions and the devices, in the run directory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.runtime.provenance import environment, now, write_json

ENVIRONMENT = "environment.json"
"""File of a run directory: `{"starts": [...]}`, the first start first."""


@contextlib.contextmanager
def noted_start(workdir: Path) -> Iterator[None]:
    """Note that a training starts here, and in the end how it ended; a killed one has no end.

    On process 0 alone.
    """
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
        with contextlib.suppress(OSError):  # what ended it may be the disk, and is what the user must read
            note(ended=now(), how=how)
        raise
    note(ended=now(), how="done")


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """Return the starts of a run; none if nobody has noted them, or if the file is broken."""
    try:
        starts = json.loads((workdir / ENVIRONMENT).read_text(errors="replace"))["starts"]
        return [dict(start) for start in starts]
    except (OSError, ValueError, KeyError, TypeError):
        return []
