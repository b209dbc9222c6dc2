"""What several commands refuse before they begin: numbers out of range, files that cannot be written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipbert_jax.config_checks import check_range as check_range
from clipbert_jax.errors import UserError
from data_pipelines.terminal_text import printable

if TYPE_CHECKING:
    from data_pipelines.tokenizer import Tokenizer

MAX_CLIPS = 64
"""Of one video: they are decoded and encoded together. The paper stops at 16."""


def check_out_file(path: Path, suffixes: Sequence[str]) -> None:
    """Refuse a file of --out that could not be written when the work is done.

    Raises:
      UserError: another suffix, no such folder, or no permission.
    """
    folder = path.resolve().parent
    if path.suffix.lower() not in suffixes:
        raise UserError(f"--out {path} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    if not folder.is_dir():
        raise UserError(f"--out {path}: there is no directory {folder}")
    if path.is_dir():
        raise UserError(f"--out {path} is a directory: give the name of a file")
    try:
        with path.open("ab") if path.exists() else tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--out {path} cannot be written ({error.strerror}): choose another place") from error


def check_out_directory(option: str, path: Path) -> None:
    """Make a directory for files, if it is not there.

    Raises:
      UserError: it is a file, or cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError as error:
        raise UserError(f"{option} {path} is a file: give the name of a directory") from error
    except OSError as error:
        reason = error.strerror
        raise UserError(f"{option} {path} cannot be written to ({reason}): choose another place") from error


def check_utf8(texts: Iterable[str]) -> None:
    """Refuse texts that hold bytes instead of characters: Python makes surrogates of what is not UTF-8.

    Raises:
      UserError: there is one.
    """
    for text in texts:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(
                f"the text {printable(text)} is not UTF-8: write it in a terminal that is set to UTF-8"
            )


def has_words(tokenizer: Tokenizer, text: str) -> bool:
    """Return whether a model reads anything of a text; of spaces and invisible characters it does not."""
    return len(tokenizer.split(text)) > len(("[CLS]", "[SEP]"))
