"""Reads a broken file of weights under watch in a worker process, in a folder of its own."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from pathlib import Path

from tests.clipbert_jax.weights.formats.attacks import sound_files
from tests.clipbert_jax.weights.formats.watched_reading import Watch, limit_growth, outcome

GROWTH_BYTES = 10**9


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A broken file, made from (seed, number) alone."""

    number: int
    kind: str
    mutations: str
    data: bytes
    folder: Path
    """Folder of the workers' folders."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a file; `problem` describes a failure."""

    verdict: str
    problem: str = ""
    seconds: float = 0.0


def attack(mutant: Mutant) -> Outcome:
    """Read a file; the function that workers run."""
    watch = _prepare(mutant.folder)
    path = Path("mutant.weights")
    path.write_bytes(mutant.data)
    watch.events, watch.is_on, begin = [], True, time.perf_counter()
    verdict, message = outcome(path)
    watch.is_on = False
    seconds = time.perf_counter() - begin
    if verdict == "MemoryError":
        raise MemoryError
    problem = ""
    if verdict not in ("arrays", "UserError"):
        problem = message or verdict
    elif verdict == "UserError" and not (message.isprintable() and len(message) < 1000):
        problem = f"no sentence: {message!r}"
    elif watch.events or os.listdir() != [path.name]:
        problem = f"it did something: {watch.events}, {os.listdir()}"
    return Outcome(verdict, problem, seconds)


@functools.cache
def _prepare(folder: Path) -> Watch:
    """Go to a folder of this process, import what reading imports, and set the limit; once."""
    own = folder / str(os.getpid())
    own.mkdir()
    os.chdir(own)
    path = Path("mutant.weights")
    for data in sound_files().values():
        path.write_bytes(data)
        assert outcome(path)[0] == "arrays"
    limit_growth(GROWTH_BYTES)
    return Watch()
