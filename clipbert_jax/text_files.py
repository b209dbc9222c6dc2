"""Strict readers of small text files, such as JSON.

A stranger may have written them, so each error is one sentence that names the file. They need neither JAX nor
NumPy, because worker processes use them too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError

_REMEDY = "restore it, or get the model again"


def read_text(path: Path, *, remedy: str = _REMEDY) -> str:
    """Return the text of a UTF-8 file; `remedy` ends the sentence of an error.

    Raises:
      UserError: the file is missing, or is not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: {remedy}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): {remedy}") from error


def read_json(path: Path, kind: type, *, remedy: str = _REMEDY) -> Any:
    """Return the JSON value of a file.

    Its type must be `kind`, a `dict` or a `list`.

    Raises:
      UserError: the file is missing or broken, or holds another type.
    """
    values = parsed_json(read_text(path, remedy=remedy), path, remedy=remedy)
    if not isinstance(values, kind):
        raise UserError(f"{path} holds a {type(values).__name__}, not a {kind.__name__}: {remedy}")
    return values


def parsed_json(text: str, path: Path, *, remedy: str = _REMEDY) -> Any:
    """Return the JSON value of a text; errors name `path` and end with the remedy.

    Raises:
      UserError: the text is broken, or nested too deep.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): {remedy}") from error


def text_lines(text: str) -> list[str]:
    """Return the lines of a text from any system.

    Only a line feed ends a line: `str.splitlines` also splits at letters that words may contain.
    """
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
