"""Names of models on this machine: each with its directory, and the sha256 by which it is recognised.

A JSON file, `$XDG_DATA_HOME/clipbert_jax/models.json` (by default in ~/.local/share).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

from clipbert_jax.errors import UserError
from clipbert_jax.model_directory import WEIGHTS, file_sha256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registered:
    """A named model."""

    path: Path
    sha256: str
    """Of its weights."""


def registry_path() -> Path:
    """Return where names are kept."""
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
            str(name): Registered(path=Path(entry["path"]), sha256=str(entry["sha256"]))
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): repair or delete it; models are not touched"
        ) from error


def register(name: str, folder: Path) -> None:
    """Give a model directory a name; one that is taken goes to the new one.

    Raises:
      UserError: the name is none, or the directory holds no model.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"{name!r} is no name for a model: use letters, digits, and - . _")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} is no model directory: it has no {WEIGHTS}")
    entries = {**registered(), name: Registered(path=folder.resolve(), sha256=file_sha256(folder / WEIGHTS))}
    path = registry_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    values = {key: {"path": str(entry.path), "sha256": entry.sha256} for key, entry in entries.items()}
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def checked_path(name: str) -> Path:
    """Return the directory of a name.

    Raises:
      UserError: it is gone, or its weights are not those that were named.
    """
    entry = registered()[name]
    weights = entry.path / WEIGHTS
    if not weights.is_file():
        raise UserError(f"the model {name} was at {entry.path}, which is gone: restore it, or name it again")
    if file_sha256(weights) != entry.sha256:
        raise UserError(
            f"{weights} is not what was named {name} (its sha256 differs): restore it, or name it again with "
            "`clipbert convert --name`"
        )
    return entry.path
