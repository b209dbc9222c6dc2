"""Builds a data directory: all of it, or nothing.

Everything is written to a temporary sibling directory that is renamed at the end, so that a failure leaves no
half-written data behind, and an older data directory stays as it was until the new one is complete.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from clipbert_jax.errors import UserError

Item = TypeVar("Item")
OnProgress = Callable[[int], None]
"""Called with the number of videos done so far."""


def silently(done: int) -> None:
    """Take note of nothing: what is called where nobody wants to know how far it is."""


def counted(items: Iterable[Item], on_progress: OnProgress) -> Iterator[Item]:
    """Pass items on, telling after each how many there have been."""
    for done, item in enumerate(items, start=1):
        yield item
        on_progress(done)


@contextlib.contextmanager
def new_data_dir(data_dir: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty directory that becomes `data_dir` when the block ends without an exception.

    Raises:
      UserError: `data_dir` exists, and `overwrite` is not set or it is no data directory; it cannot be made.
    """
    data_dir = Path(data_dir)
    if data_dir.exists() and not data_dir.is_dir():
        raise UserError(f"{data_dir} is a file; choose another --data-dir")
    if data_dir.exists() and not overwrite:
        raise UserError(
            f"{data_dir} already exists; choose another --data-dir, or replace it with --overwrite"
        )
    if data_dir.exists() and not (data_dir / "prepare.json").is_file():
        raise UserError(
            f"{data_dir} is no data directory (no prepare.json); it is not overwritten, remove it yourself"
        )
    temporary = _temporary_sibling(data_dir)
    try:
        temporary.chmod(0o755)  # mkdtemp makes it private
        yield temporary
        if data_dir.exists():
            shutil.rmtree(data_dir)
        temporary.rename(data_dir)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary_sibling(data_dir: Path) -> Path:
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{data_dir.name}.", dir=data_dir.parent))
    except OSError as error:  # such as a file in the way, no permission, no space
        raise UserError(
            f"no directory can be made in {data_dir.parent} ({error.strerror}); choose another --data-dir"
        ) from error


def write_summary(data_dir: Path, **facts: Any) -> None:
    """Write prepare.json: the facts, and the versions of what encodes, decodes and stores."""
    packages = ("av", "opencv-python-headless", "tensorflow-datasets", "array_record")
    facts["versions"] = {name: importlib.metadata.version(name) for name in packages}
    (data_dir / "prepare.json").write_text(
        json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
