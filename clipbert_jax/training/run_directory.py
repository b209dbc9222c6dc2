"""The claim of a run directory: it belongs to one config, and to one training at a time."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clipbert_jax.atomic_files import is_unfinished, write_whole
from clipbert_jax.errors import TemporaryError, UserError
from clipbert_jax.renames import present_names
from clipbert_jax.text_files import read_json

_QUIET_SECONDS = 5.0
"""Time to wait for the lock in silence: workers of a killed training live a little longer."""

_LOCK_SECONDS = 175.0
"""Time to wait after that; a file server may keep the lock of a lost host for a minute and a half."""

_CONFIG, _LOCK = "config.json", "lock"


def check_claim(workdir: Path, config: Mapping[str, Any], *, free: frozenset[str] = frozenset()) -> None:
    """Refuse a directory that `claim` would refuse, and write nothing, not even a lock.

    Raises:
      UserError: as in `claim`.
    """
    if (workdir / _CONFIG).exists():
        differences = list_differences(read_config(workdir), config, free=free)
        if differences:
            raise UserError(
                f"{workdir} holds a run with another config ({'; '.join(differences)}): "
                f"choose another run directory, or the same settings to continue that run."
            )
        return
    # A killed start, or one that goes on beside this one, has left some files.
    if workdir.exists() and (not workdir.is_dir() or any(map(_is_foreign, workdir.iterdir()))):
        raise UserError(f"{workdir} holds files that are not a run: choose another run directory")


def _is_foreign(path: Path) -> bool:
    return path.name not in (_LOCK, "config.tmp") and not is_unfinished(path)


def claim(workdir: Path, config: Mapping[str, Any], *, free: frozenset[str] = frozenset()) -> None:
    """Write the resolved config of a new run, or check that an existing run has the same.

    The caller holds the run's lock; without it two first starts would mix their configs.

    Args:
      workdir: run directory; created if needed.
      config: resolved config as JSON values.
      free: dotted fields that may differ when a run goes on, because they change no result; `*` stands for
        any part of a name.

    Raises:
      UserError: the directory holds a run with another config (lists every field that differs), or files
        that are not a run.
    """
    check_claim(workdir, config, free=free)
    path = workdir / _CONFIG
    if path.exists():
        return
    write_whole(path, json.dumps(config, indent=2) + "\n")


class RunLock:
    """Lock of a run directory: two trainings would delete each other's saves. A kill releases it."""

    def __init__(self, workdir: Path, *, log: Callable[[str], None] = print) -> None:
        self._lock = FileLock(workdir / _LOCK)
        self._workdir = workdir
        self._log = log

    def acquire(self) -> None:
        """Take the lock, on one process of the run; create the run directory if needed.

        Raises:
          TemporaryError: another training holds it, or a lost host did.
        """
        self._workdir.mkdir(parents=True, exist_ok=True)
        if self._is_acquired(_QUIET_SECONDS):
            return
        self._log(f"{self._workdir / _LOCK} is held by another process: waiting up to {_LOCK_SECONDS:.0f} s")
        if not self._is_acquired(_LOCK_SECONDS):
            raise TemporaryError(
                f"another process trains in {self._workdir} now, or a lost host still holds its lock: wait "
                "for its end, or choose another run directory"
            )

    def _is_acquired(self, seconds: float) -> bool:
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout:
            return False
        except (OSError, NotImplementedError):
            pass  # a filesystem without locks: users must take care themselves
        return True

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def read_config(workdir: Path) -> dict[str, Any]:
    """Return the resolved config of a run.

    Raises:
      UserError: the directory is not a run, or its config is broken.
    """
    path = workdir / _CONFIG
    if not path.exists():
        raise UserError(f"{workdir} holds no run (no config.json): give the --workdir of `clipbert train`.")
    return present_names(read_json(path, dict, remedy="restore it, or train again"))


def list_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, free: frozenset[str] = frozenset()
) -> list[str]:
    """Return a phrase for every field that differs between two configs, except the `free` ones.

    The name of a list's entry is its number, if both lists have as many.
    """
    return [
        f"{name}: {left!r} there, {right!r} now"
        for name, left, right in _differences(old, new)
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in free)
    ]


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, old value, new value) for every leaf that differs."""
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}{key}"
        left, right = old.get(key), new.get(key)
        if isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
            left, right = ({str(place): x for place, x in enumerate(values)} for values in (left, right))
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _differences(left, right, f"{name}.")
        elif left != right:
            yield name, left, right
