"""A run directory belongs to one config: it is claimed once, and a run with another config is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clipbert_jax.errors import UserError

_LOCK_SECONDS = 10.0
"""Workers of a training that was killed may outlive it for a moment."""


def claim(workdir: Path, config: Mapping[str, Any], *, free: frozenset[str] = frozenset()) -> None:
    """Write the resolved config of a new run, or check that an existing run has the same.

    Args:
      workdir: the run directory; created if needed.
      config: the resolved config as JSON values.
      free: dotted fields that may differ when a run goes on, because they change no result.

    Raises:
      UserError: the directory holds a run with another config (lists every field that differs), or files
        that are no run.
    """
    path = workdir / "config.json"
    temporary = path.with_suffix(".tmp")
    if path.exists():
        differences = list_differences(read_config(workdir), config, free=free)
        if differences:
            raise UserError(
                f"{workdir} holds a run with another config ({'; '.join(differences)}): "
                f"choose another run directory, or the same settings to continue that run."
            )
        return
    if workdir.exists() and (not workdir.is_dir() or set(workdir.iterdir()) - {temporary}):
        raise UserError(f"{workdir} holds something that is no run: choose another run directory.")
    workdir.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(config, indent=2) + "\n")
    temporary.replace(path)


class RunLock:
    """Keeps a second training out of a run directory as long as this one goes on; a killed one holds nothing.

    Two would delete what the other is just saving.
    """

    def __init__(self, workdir: Path) -> None:
        self._lock = FileLock(workdir / "lock")
        self._workdir = workdir

    def acquire(self) -> None:
        """Take it, on one process of the run.

        Raises:
          UserError: another training has it.
        """
        try:
            self._lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise UserError(
                f"another process trains in {self._workdir} now: wait for its end, or choose another run "
                "directory"
            ) from None
        except (OSError, NotImplementedError):
            return  # a filesystem without locks: then users must take care themselves

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def read_config(workdir: Path) -> dict[str, Any]:
    """Return the resolved config of a run.

    Raises:
      UserError: the directory holds no run.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no run (no config.json): give the --workdir of `clipbert train`.")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): restore it, or train again.") from error
    if not isinstance(config, dict):
        raise UserError(
            f"{path} is no config, but a JSON {type(config).__name__}: restore it, or train again."
        )
    return config


def list_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, free: frozenset[str] = frozenset()
) -> list[str]:
    """Return a phrase for every field that differs between two configs, except the `free` ones."""
    return [
        f"{name}: {left!r} there, {right!r} now"
        for name, left, right in _differences(old, new)
        if name not in free
    ]


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, old value, new value) for every leaf that differs."""
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}{key}"
        left, right = old.get(key), new.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _differences(left, right, f"{name}.")
        elif left != right:
            yield name, left, right
