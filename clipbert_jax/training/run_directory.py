"""A run directory belongs to one config: it is claimed once, and a run with another config is refused."""

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
"""Workers of a training that was killed may outlive it for a moment."""

_LOCK_SECONDS = 175.0
"""After that; a file server may keep the lock of a host that was lost for a minute and a half."""

_CONFIG, _LOCK = "config.json", "lock"


def check_claim(workdir: Path, config: Mapping[str, Any], *, free: frozenset[str] = frozenset()) -> None:
    """Refuse a directory that `claim` would refuse; write nothing, not even a lock.

    Raises:
      UserError: as `claim`.
    """
    if (workdir / _CONFIG).exists():
        differences = list_differences(read_config(workdir), config, free=free)
        if differences:
            raise UserError(
                f"{workdir} holds a run with another config ({'; '.join(differences)}): "
                f"choose another run directory, or the same settings to continue that run."
            )
        return
    # A start that was killed, or one that goes on beside this one, has left some files.
    if workdir.exists() and (not workdir.is_dir() or any(map(_is_of_others, workdir.iterdir()))):
        raise UserError(f"{workdir} holds something that is no run: choose another run directory.")


def _is_of_others(path: Path) -> bool:
    return path.name not in (_LOCK, "config.tmp") and not is_unfinished(path)


def claim(workdir: Path, config: Mapping[str, Any], *, free: frozenset[str] = frozenset()) -> None:
    """Write the resolved config of a new run, or check that an existing run has the same.

    To be called with the run's lock, or two first starts would mix their configs.

    Args:
      workdir: the run directory; created if needed.
      config: the resolved config as JSON values.
      free: dotted fields that may differ when a run goes on, because they change no result; `*` stands for
        any part of a name.

    Raises:
      UserError: the directory holds a run with another config (lists every field that differs), or files
        that are no run.
    """
    check_claim(workdir, config, free=free)
    path = workdir / _CONFIG
    if path.exists():
        return
    write_whole(path, json.dumps(config, indent=2) + "\n")


class RunLock:
    """Keeps a second training out of a run directory as long as this one goes on; a killed one holds nothing.

    Two would delete what the other is just saving.
    """

    def __init__(self, workdir: Path, *, log: Callable[[str], None] = print) -> None:
        self._lock = FileLock(workdir / _LOCK)
        self._workdir = workdir
        self._log = log

    def acquire(self) -> None:
        """Take it, on one process of the run; creates the run directory if needed.

        Raises:
          TemporaryError: another training has it, or had it on a host that was lost.
        """
        self._workdir.mkdir(parents=True, exist_ok=True)
        if self._is_acquired(_QUIET_SECONDS):
            return
        self._log(f"{self._workdir / _LOCK} is held by another process: waiting up to {_LOCK_SECONDS:.0f} s")
        if not self._is_acquired(_LOCK_SECONDS):
            raise TemporaryError(
                f"another process trains in {self._workdir} now, or the lock of a host that was lost has not "
                "ended yet: wait for its end, or choose another run directory"
            )

    def _is_acquired(self, seconds: float) -> bool:
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout:
            return False
        except (OSError, NotImplementedError):
            pass  # a filesystem without locks: then users must take care themselves
        return True

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def read_config(workdir: Path) -> dict[str, Any]:
    """Return the resolved config of a run.

    Raises:
      UserError: the directory holds no run, or its config is broken.
    """
    path = workdir / _CONFIG
    if not path.exists():
        raise UserError(f"{workdir} holds no run (no config.json): give the --workdir of `clipbert train`.")
    return present_names(read_json(path, dict, remedy="restore it, or train again"))


def list_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, free: frozenset[str] = frozenset()
) -> list[str]:
    """Return a phrase for every field that differs between two configs, except the `free` ones.

    An entry of a list has its number as its name, if there are as many in both.
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
