"""A user's own table of captions: csv with a header line, or JSON lines.

Columns or keys are `video` and `caption`, optionally `split` and `id`. Nothing is guessed: a line that cannot
be understood is an error that names it. After: `corpus/folder.py`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.annotations.store import SPLITS

_SPLIT_OF = {
    **{split: split for split in SPLITS},
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; `split` is None where the table has no such column."""

    video: str
    caption: str
    id: str
    split: str | None


def read_table(path: Path) -> list[Row]:
    """Return the rows of a csv or jsonl file.

    Raises:
      UserError: no file, another format, a column or value is missing.
    """
    if not path.is_file():
        raise UserError(
            f"no annotations at {path}; give --annotations a csv or jsonl file with `video` and `caption`"
        )
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{path} is neither .csv nor .jsonl; those are the formats understood")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    numbered = _read_csv(path, text) if path.suffix == ".csv" else _read_json_lines(path, text)
    rows = [_make_row(path, number, fields) for number, fields in numbered]
    if not rows:
        raise UserError(f"{path} has no captions; add lines with `video` and `caption`")
    if len({row.split is None for row in rows}) > 1:
        raise UserError(f"{path} gives a split for some lines only; give it for all, or for none")
    if len({row.id for row in rows}) < len(rows):
        raise UserError(f"{path} has an id twice; make the column `id` unique, or leave it out")
    return rows


def _read_csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the fields of each row and the line where it begins.

    Raises:
      UserError: a column is missing, a row has more or fewer values than columns, a quote is not closed.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 1
    try:
        columns = next(reader, [])
        _check_columns(path, columns)
        number = reader.line_num + 1
        for values in reader:
            if values:
                _check_count(path, number, values, columns)
                yield number, dict(zip(columns, values, strict=True))
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path} line {number} is no csv ({error}); is a quote not closed? Within quotes, write it twice"
        ) from error


def _check_count(path: Path, number: int, values: Sequence[str], columns: Sequence[str]) -> None:
    remedy = "put quotes around a caption with commas"
    if len(values) < len(columns):
        remedy = "give all of them, if only as empty"
    if len(values) != len(columns):
        raise UserError(
            f"{path} line {number} has {len(values)} values for the columns {', '.join(columns)}; {remedy}"
        )


def _read_json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parse_json(path, number, line)


def _parse_json(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path} line {number} is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f'{path} line {number} must be an object such as {{"video": ..., "caption": ...}}')
    _check_columns(path, tuple(fields), where=f" line {number}")
    return fields


def _check_columns(path: Path, found: Sequence[str], where: str = "") -> None:
    missing = [name for name in ("video", "caption") if name not in found]
    if missing:
        raise UserError(
            f"{path}{where} lacks {' and '.join(missing)}; found: {', '.join(found) or 'nothing'}; "
            "needed: video, caption; optional: split, id"
        )


def _make_row(path: Path, number: int, fields: dict[str, object]) -> Row:
    video, caption, split, caption_id = (
        _text(path, number, key, fields.get(key)) for key in ("video", "caption", "split", "id")
    )
    if not video or not caption:
        raise UserError(
            f"{path} line {number} has an empty {'caption' if video else 'video'}; fill it or remove the line"
        )
    if split and split not in _SPLIT_OF:
        raise UserError(f"{path} line {number}: split must be train, validation or test, not {split!r}")
    return Row(
        video=video,
        caption=caption,
        id=caption_id or f"caption_{number:06d}",
        split=_SPLIT_OF[split] if split else None,
    )


def _text(path: Path, number: int, key: str, value: object) -> str:
    """Return a value of the table, empty if there is none; JSON may give numbers."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise UserError(f"{path} line {number}: {key} must be text, not {json.dumps(value)}")
    return "" if value is None else str(value).strip()
