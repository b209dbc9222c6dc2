"""Reads files under watch: what comes of each, and what the interpreter is asked to do meanwhile."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from clipbert_jax.weights.formats.read_file import read_weights_file

_HARMLESS = frozenset({"builtins.id"})
_EVENTS_OF_READING = frozenset({"open", "mmap.__new__", "os.listdir", "tempfile.mkstemp"})


class Watch:
    """Notes what the interpreter is asked to do: imports, code, processes, files."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_on = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on or event in _HARMLESS:
            return
        is_reading = event in _EVENTS_OF_READING and (event != "open" or arguments[1] in ("r", "rb", None))
        if not is_reading:
            self.events.append(f"{event}{arguments[:1]}")


def outcome(path: Path) -> tuple[str, str]:
    """Return the type and the message of what comes of a file, having touched each array."""
    try:
        arrays = read_weights_file(path).arrays
    except UserError as error:
        return "UserError", str(error)
    except Exception as error:
        return type(error).__name__, str(error)
    for array in arrays.values():
        array.tobytes()
    return "arrays", ",".join(arrays)


def limit_growth(num_bytes: int) -> None:
    """Let this process's address space grow by so much and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
