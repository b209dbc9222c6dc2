"""A user's own table of captions or questions: csv with a header line, or JSON lines.

`COLUMNS_OF` lists the columns or keys of each kind; `split` and `id` are optional. Nothing is guessed: an
error names the first line that cannot be understood. `own_table` and `corpus/folder.py` call it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion
from data_pipelines.annotations.store import SPLITS

_SPLIT_OF = {
    **{split: split for split in SPLITS},
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
}


COLUMNS_OF: Mapping[type, tuple[str, ...]] = {
    Caption: ("video", "caption"),
    Count: ("video", "question", "count"),
    MultipleChoice: ("video", "question", "options", "answer"),
    OpenQuestion: ("video", "question", "answer"),
}
"""Options are a list in JSON lines, the columns a1, a2, ... in csv; the answer is the text of an option, or
else its position from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; `split` is None if the table has no such column."""

    video: str
    id: str
    split: str | None
    kind: type
    values: Mapping[str, Any]
    """Fields of the record other than id and video_id."""

    @property
    def caption(self) -> str:
        """The text that describes the video, or the question about it."""
        return self.values["text" if self.kind is Caption else "question"]

    def record(self, video_id: str) -> Any:
        """Return the annotation record, with this id for the video."""
        return self.kind(id=self.id, video_id=video_id, **self.values)


def read_table(path: Path) -> list[Row]:
    """Return the rows of a csv or jsonl file of captions.

    Raises:
      UserError: the file does not exist, has another format or questions, or a column or value is missing.
    """
    rows = read_any_table(path)
    if rows[0].kind is not Caption:
        raise UserError(
            f"{path} is a table of questions; give one of captions, with the columns video, caption"
        )
    return rows


def read_any_table(path: Path) -> list[Row]:
    """Return the rows of a csv or jsonl file of captions or questions, all of one kind.

    Raises:
      UserError: the file does not exist or has another format, or a column or value is missing.
    """
    if not path.is_file():
        raise UserError(
            f"no annotations at {path}; give --annotations a csv or jsonl file with `video` and `caption`"
        )
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{path} is neither .csv nor .jsonl; give a file in one of these formats")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    numbered = _read_csv(path, text) if path.suffix == ".csv" else _read_json_lines(path, text)
    rows = [_make_row(path, number, fields) for number, fields in numbered]
    kinds = sorted({row.kind.__name__ for row in rows})
    if len(kinds) > 1:
        raise UserError(f"{path} mixes {' and '.join(kinds)} lines; make a file of each")
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
            f"{path} line {number} is not csv ({error}); close every quote, and double a quote within quotes"
        ) from error


def _check_count(path: Path, number: int, values: Sequence[str], columns: Sequence[str]) -> None:
    remedy = "put quotes around a caption with commas"
    if len(values) < len(columns):
        remedy = "give a value for each, even an empty one"
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
        raise UserError(f"{path} line {number} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f'{path} line {number} must be an object such as {{"video": ..., "caption": ...}}')
    _check_columns(path, tuple(fields), where=f" line {number}")
    return fields


def _check_columns(path: Path, found: Sequence[str], where: str = "") -> None:
    needed = [name for name in COLUMNS_OF[_kind(found)] if name != "options"]
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(
            f"{path}{where} lacks {' and '.join(missing)}; found: {', '.join(found) or 'nothing'}; "
            f"needed: {', '.join(needed)}; optional: split, id"
        )


def _kind(columns: Sequence[str]) -> type:
    """Return the kind of records that a table with these columns holds; Caption by default."""
    if "question" not in columns or "caption" in columns:
        return Caption
    if "count" in columns:
        return Count
    return MultipleChoice if "options" in columns or "a1" in columns else OpenQuestion


def _make_row(path: Path, number: int, fields: dict[str, object]) -> Row:
    kind = _kind(tuple(fields))
    video, split, id_ = (_text(path, number, key, fields.get(key)) for key in ("video", "split", "id"))
    if not video:
        raise _empty(path, number, "video")
    values = _VALUES_OF[kind](path, number, fields)
    if split and split not in _SPLIT_OF:
        raise UserError(f"{path} line {number}: split must be train, validation or test, not {split!r}")
    return Row(
        video=video,
        id=id_ or f"{'caption' if kind is Caption else 'question'}_{number:06d}",
        split=_SPLIT_OF[split] if split else None,
        kind=kind,
        values=values,
    )


def _caption(path: Path, number: int, fields: dict[str, object]) -> dict[str, Any]:
    return {"text": _filled(path, number, "caption", fields)}


def _count(path: Path, number: int, fields: dict[str, object]) -> dict[str, Any]:
    count = _filled(path, number, "count", fields)
    if not count.isdecimal():
        raise UserError(f"{path} line {number}: count must be a whole number, not {count!r}")
    return {"question": _filled(path, number, "question", fields), "count": int(count)}


def _open_question(path: Path, number: int, fields: dict[str, object]) -> dict[str, Any]:
    return {key: _filled(path, number, key, fields) for key in ("question", "answer")}


def _choice(path: Path, number: int, fields: dict[str, object]) -> dict[str, Any]:
    options = fields.get("options")
    if options is None:
        options = [fields[f"a{i}"] for i in range(1, len(fields) + 1) if f"a{i}" in fields]
    if not isinstance(options, list) or len(options) < 2:
        raise UserError(f"{path} line {number}: options must be a list of two texts or more")
    texts = tuple(_filled(path, number, "option", {"option": option}) for option in options)
    answer = _filled(path, number, "answer", fields)
    if answer in texts:
        position = texts.index(answer)
    elif answer.isdecimal() and int(answer) < len(texts):
        position = int(answer)
    else:
        raise UserError(
            f"{path} line {number}: answer must be an option or a position from 0 to {len(texts) - 1}, "
            f"not {answer!r}"
        )
    question = _text(path, number, "question", fields.get("question"))
    return {"question": question, "options": texts, "answer_index": position}


_VALUES_OF: Mapping[type, Callable[[Path, int, dict[str, object]], dict[str, Any]]] = {
    Caption: _caption,
    Count: _count,
    MultipleChoice: _choice,
    OpenQuestion: _open_question,
}


def _filled(path: Path, number: int, key: str, fields: Mapping[str, object]) -> str:
    text = _text(path, number, key, fields.get(key))
    if not text:
        raise _empty(path, number, key)
    return text


def _empty(path: Path, number: int, key: str) -> UserError:
    return UserError(f"{path} line {number} has an empty {key}; fill it or remove the line")


def _text(path: Path, number: int, key: str, value: object) -> str:
    """Return a value of the table as text, empty if it is missing; JSON may have numbers."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise UserError(f"{path} line {number}: {key} must be text, not {json.dumps(value)}")
    return "" if value is None else str(value).strip()
