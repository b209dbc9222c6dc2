"""Checks of options that several commands share: ranges, files to write, texts."""

from __future__ import annotations

import difflib
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
"""Largest number of clips of one video, which are decoded and encoded together. The paper stops at 16."""


def check_decode_timeout(seconds: float | None) -> None:
    """Refuse a time limit of less than a second.

    Raises:
      UserError: the limit is out of range.
    """
    if seconds is not None:
        check_range("--decode-timeout", seconds, 1)


def check_out_file(path: Path, suffixes: Sequence[str]) -> None:
    """Refuse an --out file that could not be written at the end of the work.

    Raises:
      UserError: the suffix is wrong, the folder is missing, or the file cannot be written.
    """
    folder = path.resolve().parent
    if path.suffix.lower() not in suffixes:
        raise UserError(f"--out {path} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    if not folder.is_dir():
        raise UserError(f"--out {path}: there is no directory {folder}; create it first")
    if path.is_dir():
        raise UserError(f"--out {path} is a directory: give the name of a file")
    try:
        with tempfile.TemporaryFile(dir=folder):  # the file is written beside its place, then moved there
            pass
        if path.exists():
            with path.open("ab"):
                pass
    except OSError as error:
        raise UserError(f"--out {path} cannot be written ({error.strerror}): choose another place") from error


def check_out_directory(option: str, path: Path) -> None:
    """Create a directory for files, if it does not exist.

    Raises:
      UserError: the path is a file, or the directory cannot be created or written to.
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
    """Refuse texts that are not UTF-8; Python turns such bytes into surrogates.

    Raises:
      UserError: names the text.
    """
    for text in texts:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(
                f"the text {printable(text)} is not UTF-8: type it in a terminal that is set to UTF-8"
            )


def has_words(tokenizer: Tokenizer, text: str) -> bool:
    """Return whether a text has words; spaces and invisible characters do not count."""
    return len(tokenizer.split(text)) > len(("[CLS]", "[SEP]"))


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a suggestion: the nearest name, or all names."""
    nearest = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(known)}"
