"""Small files that a stranger may have written, read strictly: JSON, and the words of a model.

Each mistake is one sentence that names the file. Needs neither JAX nor NumPy: workers read words too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError

_REMEDY = "restore it, or get the model again"


def read_text(path: Path, *, remedy: str = _REMEDY) -> str:
    """Return a text.

    Args:
      path: of the file.
      remedy: what to do where something is wrong.

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

    Args:
      path: of the file.
      kind: `dict` or `list`, which the value must be.
      remedy: what to do where something is wrong.

    Raises:
      UserError: the file is missing or broken, or holds something else.
    """
    values = parsed_json(read_text(path, remedy=remedy), path, remedy=remedy)
    if not isinstance(values, kind):
        raise UserError(f"{path} holds a {type(values).__name__}, not a {kind.__name__}: {remedy}")
    return values


def parsed_json(text: str, path: Path, *, remedy: str = _REMEDY) -> Any:
    """Return the JSON value of a text; `path` is named in errors, which end with the remedy.

    Raises:
      UserError: it is broken, or nested too deep.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): {remedy}") from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text, whatever system wrote it.

    Only a line feed ends a line: `str.splitlines` also splits at letters that words may contain.
    """
    return text_lines(read_text(path))


def text_lines(text: str) -> list[str]:
    """Return the lines of a text; see `read_lines`."""
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def read_tokens(path: Path) -> tuple[str, ...]:
    """Return the tokens of a vocab.txt; the id of a token is its line.

    Raises:
      UserError: it is no vocabulary of BERT.
    """
    tokens = tuple(read_lines(path))
    missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in tokens]
    if missing:
        raise UserError(f"{path} is no BERT vocabulary: it lacks {', '.join(missing)}; one token per line")
    if tokens[0] != "[PAD]":
        raise UserError(f"{path} must have [PAD] on its first line, because padding has id 0")
    return tokens


def read_is_lower_case(path: Path, tokens: tuple[str, ...]) -> bool:
    """Return whether texts become lower case, as a tokenizer_config.json says.

    If it does not say, or is not there, they do unless the vocabulary has upper-case words.

    Raises:
      UserError: it is broken.
    """
    values = read_json(path, dict) if path.is_file() else {}
    has_upper_case = any(token != token.lower() for token in tokens if not token.startswith("["))
    is_lower_case = values.get("do_lower_case", not has_upper_case)
    if not isinstance(is_lower_case, bool):
        raise UserError(f"{path} has a do_lower_case that is neither true nor false: get it again")
    return is_lower_case
