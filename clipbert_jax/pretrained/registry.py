"""Names of models on this machine, each with its directory and the sha256 of its files.

`clipbert convert --name` adds a name, and `load` finds it. They are kept in a JSON file,
`$XDG_DATA_HOME/clipbert_jax/models.json` (by default in ~/.local/share).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import UserError
from clipbert_jax.pretrained.directory import ANSWERS, CONFIG, TOKENIZER, VOCAB, WEIGHTS, file_sha256

_FILES = (CONFIG, WEIGHTS, VOCAB, TOKENIZER, ANSWERS)
"""Files that decide what a model predicts."""
_LOCK_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registered:
    """A named model."""

    path: Path
    """Model directory."""
    sha256: Mapping[str, str]
    """sha256 of each file; names that an earlier version registered have only that of the weights."""


def registry_path() -> Path:
    """Return the file that keeps the names."""
    home = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(home) if os.path.isabs(home) else Path("~/.local/share").expanduser()
    return folder / "clipbert_jax" / "models.json"


def registered() -> dict[str, Registered]:
    """Return all named models.

    Raises:
      UserError: the file is damaged.
    """
    path = registry_path()
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): Registered(path=Path(entry["path"]), sha256=_sums(entry["sha256"]))
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}): repair or delete it; models are not touched"
        ) from error


def _sums(value: object) -> dict[str, str]:
    if isinstance(value, str):
        return {WEIGHTS: value}
    if not isinstance(value, dict) or not value.keys() <= set(_FILES) or WEIGHTS not in value:
        raise ValueError("a sha256 is missing")
    return {name: str(digest) for name, digest in value.items()}


def register(name: str, folder: Path) -> None:
    """Give a model directory a name, and take the name from the model that had it.

    Raises:
      UserError: the name has invalid letters, or the directory is not a model's.
    """
    check_name(name)
    for file in _FILES:
        if not (folder / file).is_file():
            raise UserError(f"{folder} is not a model directory: it has no {file}")
    entry = Registered(path=folder.resolve(), sha256={file: file_sha256(folder / file) for file in _FILES})
    path = registry_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        entries = {**registered(), name: entry}
        values = {key: {"path": str(x.path), "sha256": dict(x.sha256)} for key, x in entries.items()}
        write_whole(path, json.dumps(values, indent=2) + "\n")


def check_name(name: str) -> None:
    """Refuse an invalid name.

    Raises:
      UserError: the name is empty or has invalid letters.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"the name {name!r} is not valid for a model: use letters, digits, and - . _")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing, so that two names given at the same time are both kept."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise UserError(f"another process has {path} open: try again") from None
    except (OSError, NotImplementedError):
        pass  # a filesystem without locks
    try:
        yield
    finally:
        lock.release()


def checked_path(name: str) -> Path:
    """Return the directory of a named model.

    Raises:
      UserError: the directory is gone, or its files have changed since they were named.
    """
    entry = registered()[name]
    if not (entry.path / WEIGHTS).is_file():
        raise UserError(f"the model {name} was at {entry.path}, which is gone: restore it, or name it again")
    for file, digest in entry.sha256.items():
        path = entry.path / file
        if not path.is_file() or file_sha256(path) != digest:
            raise UserError(
                f"{path} has changed since it was named {name} (its sha256 differs): restore it, or name it "
                "again with `clipbert convert --name`"
            )
    return entry.path
