"""Reads public annotation files as text, JSON, JSON lines or tables.

The dataset modules take values out of `AnnotationEntry` objects. An entry knows its place in the file, so
every error names file, place and key.
"""

from __future__ import annotations

import collections
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError

_HALF_CHARACTER = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"
)
"""An escape of JSON for half of a character beyond U+FFFF, where a text was cut in the middle of an emoji."""

_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class AnnotationEntry:
    """One object of an annotation file: a row, a line, an element of a list."""

    def __init__(self, where: str, fields: Mapping[str, Any]):
        self.where = where
        self.fields = fields

    def __contains__(self, key: str) -> bool:
        return self.fields.get(key) is not None

    def value(self, key: str) -> Any:
        """Return a value unchanged.

        Raises:
          UserError: the entry lacks the key.
        """
        if key not in self.fields:
            found = ", ".join(map(str, self.fields)) or "nothing"
            raise UserError(f"{self.where} has no `{key}` (found: {found[:200]}); is it another file?")
        return self.fields[key]

    def text(self, key: str, *, may_be_empty: bool = False) -> str:
        """Return a text with single spaces and none around it; a whole number counts as text.

        Raises:
          UserError: the key is missing, or its value is not a text or empty.
        """
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.bad(key, "text", value)
        value = " ".join(str(value).split())
        if not value and not may_be_empty:
            raise UserError(f"{self.where} has an empty `{key}`; fill it or remove the entry")
        return value

    def texts(self, key: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
        """Return a list of texts.

        Raises:
          UserError: the key is missing, its value is not a list of texts, or a text is empty.
        """
        values = self.value(key)
        if not isinstance(values, list) or not values:
            raise self.bad(key, "a list of texts", values)
        places = AnnotationEntry(self.where, {f"{key}[{i}]": value for i, value in enumerate(values)})
        return tuple(places.text(place, may_be_empty=may_be_empty) for place in places.fields)

    def integer(self, key: str) -> int:
        """Return a whole number, which may be written as text.

        Raises:
          UserError: the key is missing, or its value is not a whole number.
        """
        value = self.value(key)
        try:
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise ValueError
            return int(value)
        except ValueError:
            raise self.bad(key, "a whole number", value) from None

    def position(self, key: str, count: int) -> int:
        """Return the position of the right one of `count` options.

        Raises:
          UserError: the key is missing, or its value is not a whole number from 0 to count - 1.
        """
        value = self.integer(key)
        if not 0 <= value < count:
            raise self.bad(key, f"from 0 to {count - 1}", value)
        return value

    def entries(self, key: str) -> list[AnnotationEntry]:
        """Return a list of objects.

        Raises:
          UserError: the key is missing, or its value is not a list of objects.
        """
        return _entries(f"{self.where}: `{key}`", self.value(key))

    def bad(self, key: str, expected: str, value: Any) -> UserError:
        """Return the error that names a bad value and what was expected."""
        return UserError(f"{self.where}: `{key}` must be {expected}, not {json.dumps(value)[:80]}")


def read_text(path: Path, purpose: str = "annotations") -> str:
    """Return a file as text, without byte-order mark, with Unix line ends.

    Raises:
      UserError: the file does not exist, or it is not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"no {purpose} at {path}; give the path of the file itself")
    data = path.read_bytes()
    other = _OTHER_ENCODINGS.get(data[:2])
    try:
        if other is None and b"\0" not in data[:4096]:
            return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} line {line} is not UTF-8 text (latin-1, perhaps); save it as UTF-8"
        ) from error
    if other is None:
        raise UserError(f"{path} is not a text file; if it is compressed, unpack it first")
    raise UserError(f"{path} is {other}, not UTF-8 text; save it as UTF-8")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
      UserError: the file does not exist, or it is not JSON in UTF-8.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
        _check_characters(path, text, value)
        return value
    except ValueError as error:
        if text.lstrip()[:1] not in ("{", "["):
            raise UserError(f"{path} is not JSON: it begins with {text[:40]!r}; is it a table?") from error
        if getattr(error, "msg", "") == "Extra data" and text.startswith("{"):
            raise UserError(
                f"{path} has one object a line (jsonl), but a single JSON value is expected"
            ) from error
        raise UserError(f"{path} is truncated or damaged: it is not complete JSON ({error})") from error


def read_object(path: Path) -> AnnotationEntry:
    """Return the object in a JSON file.

    Raises:
      UserError: the file does not exist, or it is not one JSON object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold one JSON object, not a list; is it another file?")
    return AnnotationEntry(str(path), value)


def read_objects(path: Path) -> list[AnnotationEntry]:
    """Return the objects of a JSON list or of JSON lines, told apart by the first character.

    Raises:
      UserError: the file does not exist, is empty, or has another format.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        entries = _entries(str(path), read_json(path))
    else:
        entries = [
            AnnotationEntry(f"{path} line {number}", fields) for number, fields in json_lines(path, text)
        ]
    if not entries:
        raise UserError(f"{path} is empty; is the download complete?")
    return entries


def read_table(path: Path, columns: Sequence[str], *, delimiter: str = ",") -> list[AnnotationEntry]:
    """Return the rows of a table whose first line names its columns.

    Args:
      path: the file.
      columns: columns that it must have; it may have others.
      delimiter: character between values; quotes count only if it is a comma.

    Raises:
      UserError: the file does not exist or is not UTF-8, a column is missing, a row has too many or too few
        values, or there are no rows.
    """
    rows = csv_rows(path, read_text(path), delimiter)
    _, header = next(rows, (1, []))
    header = checked_header(path, header)
    missing = [name for name in columns if name not in header]
    if missing:
        found = ", ".join(header)[:200] or "nothing"
        hint = _delimiter_hint(found, delimiter)
        raise UserError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; found: {found}{hint}"
        )
    return _checked(path, rows, header)


def checked_header(path: Path, columns: Sequence[str]) -> list[str]:
    """Return the names of columns without spaces around them.

    Raises:
      UserError: two columns have the same name.
    """
    names = [name.strip() for name in columns]
    twice = next((name for name, count in collections.Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{path} has the column {twice or '(without a name)'} twice; remove or rename one")
    return names


def read_table_without_header(
    path: Path, columns: Sequence[str], *, delimiter: str = "\t"
) -> list[AnnotationEntry]:
    """Return the rows of a table that does not name its columns.

    Raises:
      UserError: the file does not exist or is not UTF-8, a row has too many or too few values, or there are
        no rows.
    """
    return _checked(path, csv_rows(path, read_text(path), delimiter), columns)


def json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the object of each line that is not empty.

    Raises:
      UserError: a line is not a JSON object.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_unique)
        except _KeyTwiceError as error:
            raise UserError(f"{path} line {number} has the key `{error}` twice; remove one") from error
        except ValueError as error:
            raise UserError(f"{path} line {number} is not JSON ({error}); is the file truncated?") from error
        if not isinstance(value, dict):
            raise UserError(f"{path} line {number} must be a JSON object, not {line[:40]!r}")
        _check_characters(path, line, value, number)
        yield number, value


class _KeyTwiceError(Exception):
    """An object has a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        raise _KeyTwiceError(counts.most_common(1)[0][0])
    return fields


def _check_characters(path: Path, text: str, value: Any, first_line: int = 1) -> None:
    """Refuse a text with half of a character, which no file can hold."""
    found = _HALF_CHARACTER.search(text)
    if found is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        line = first_line + text.count("\n", 0, found.start())
        raise UserError(
            f"{path} line {line} has half of a character, {found[0][:6]}: a text was cut in the middle of an "
            "emoji; correct it"
        ) from error


def _entries(where: str, values: Any) -> list[AnnotationEntry]:
    if not isinstance(values, list):
        raise UserError(f"{where} must be a list of objects; is it another file?")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise UserError(f"{where}: element {number} must be an object, not {json.dumps(value)[:80]}")
    return [
        AnnotationEntry(f"{where} element {number}", value) for number, value in enumerate(values, start=1)
    ]


def csv_rows(path: Path, text: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the values of each row that is not empty, and the number of the line where it begins.

    Raises:
      UserError: a quote is not closed; quotes count only if the delimiter is a comma.
    """
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=quoting == csv.QUOTE_MINIMAL)
    number = 1
    try:
        for values in reader:
            if values:
                yield number, values
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path} line {number} is not csv ({error}); is a quote not closed?") from error


def _checked(
    path: Path, rows: Iterator[tuple[int, list[str]]], columns: Sequence[str]
) -> list[AnnotationEntry]:
    entries = []
    for number, values in rows:
        if len(values) != len(columns):
            raise UserError(
                f"{path} line {number} has {len(values)} values for the {len(columns)} columns "
                f"{', '.join(columns)}; is the file truncated, or another one?"
            )
        entries.append(AnnotationEntry(f"{path} line {number}", dict(zip(columns, values, strict=True))))
    if not entries:
        raise UserError(f"{path} has no rows; is the download complete?")
    return entries


def _delimiter_hint(found: str, delimiter: str) -> str:
    if found.lstrip()[:1] in ("{", "["):
        return "; this is JSON, and a table is expected"
    if delimiter == "\t" and "," in found and "\t" not in found:
        return "; its values must be separated by tabs"
    return ""
