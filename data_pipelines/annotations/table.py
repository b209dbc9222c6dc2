"""A user's own table of captions or questions: csv with a header line, or JSON lines.

`COLUMNS_OF` lists the columns or keys of each kind; `split` and `id` are optional. Nothing is guessed: an
error names the first line that cannot be understood. `own_table` and `corpus/folder.py` call it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from data_pipelines.annotations.files import checked_header, csv_rows, json_lines, read_text
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
else its position from 0. A number of JSON is a position."""


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
    if path.suffix not in (".csv", ".jsonl") and path.is_file():
        raise UserError(f"{path} is neither .csv nor .jsonl; give a file in one of these formats")
    text = read_text(path)
    rows = list(map(_make_row, _read_csv(path, text) if path.suffix == ".csv" else _read_json(path, text)))
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


@dataclasses.dataclass(frozen=True)
class _Line:
    """The fields of a line, from which texts are taken."""

    path: Path
    number: int
    fields: Mapping[str, Any]
    is_json: bool = False

    @property
    def where(self) -> str:
        return f"{self.path} line {self.number}"

    def text(self, key: str) -> str:
        """Return a value as text, empty if it is missing; JSON may have numbers."""
        value = self.fields.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise UserError(f"{self.where}: {key} must be text, not {json.dumps(value)}")
        return "" if value is None else str(value).strip()

    def filled(self, key: str) -> str:
        """Return a text that must not be empty."""
        text = self.text(key)
        if not text:
            raise UserError(f"{self.where} has an empty {key}; fill it or remove the line")
        return text


def _read_csv(path: Path, text: str) -> Iterator[_Line]:
    """Yield the rows, each with the number of the line where it begins.

    Raises:
      UserError: a column is missing, a row has more or fewer values than columns, a quote is not closed.
    """
    rows = csv_rows(path, text)
    _, columns = next(rows, (1, []))
    columns = checked_header(path, columns)
    _check_columns(str(path), columns)
    for number, values in rows:
        if len(values) != len(columns):
            remedy = "put quotes around a caption with commas"
            if len(values) < len(columns):
                remedy = "give a value for each, even an empty one"
            found = f"{len(values)} values for the columns {', '.join(columns)}"
            raise UserError(f"{path} line {number} has {found}; {remedy}")
        yield _Line(path, number, dict(zip(columns, values, strict=True)))


def _read_json(path: Path, text: str) -> Iterator[_Line]:
    for number, fields in json_lines(path, text):
        line = _Line(path, number, fields, is_json=True)
        _check_columns(line.where, tuple(fields))
        yield line


def _check_columns(where: str, found: Sequence[str]) -> None:
    needed = [name for name in COLUMNS_OF[_kind(found)] if name != "options"]
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(
            f"{where} lacks {' and '.join(missing)}; found: {', '.join(found) or 'nothing'}; "
            f"needed: {', '.join(needed)}; optional: split, id"
        )


def _kind(columns: Sequence[str]) -> type:
    """Return the kind of records that a table with these columns holds; Caption by default."""
    if "question" not in columns or "caption" in columns:
        return Caption
    if "count" in columns:
        return Count
    return MultipleChoice if "options" in columns or "a1" in columns else OpenQuestion


def _make_row(line: _Line) -> Row:
    kind = _kind(tuple(line.fields))
    split = line.text("split")
    if split and split not in _SPLIT_OF:
        raise UserError(f"{line.where}: split must be train, validation or test, not {split!r}")
    return Row(
        video=line.filled("video"),
        id=line.text("id") or f"{'caption' if kind is Caption else 'question'}_{line.number:06d}",
        split=_SPLIT_OF[split] if split else None,
        kind=kind,
        values=_VALUES_OF[kind](line),
    )


def _caption(line: _Line) -> dict[str, Any]:
    return {"text": line.filled("caption")}


def _count(line: _Line) -> dict[str, Any]:
    count = line.filled("count")
    if not count.isdecimal():
        raise UserError(f"{line.where}: count must be a whole number, not {count!r}")
    return {"question": line.filled("question"), "count": int(count)}


def _open_question(line: _Line) -> dict[str, Any]:
    return {key: line.filled(key) for key in ("question", "answer")}


def _choice(line: _Line) -> dict[str, Any]:
    fields = line.fields
    options = fields.get("options")
    if options is None:
        options = [fields[f"a{i}"] for i in range(1, len(fields) + 1) if f"a{i}" in fields]
    if not isinstance(options, list) or len(options) < 2:
        raise UserError(f"{line.where}: options must be a list of two texts or more")
    texts = tuple(dataclasses.replace(line, fields={"option": o}).filled("option") for o in options)
    return {
        "question": line.text("question"),
        "options": texts,
        "answer_index": _answer_position(line, texts),
    }


def _answer_position(line: _Line, options: Sequence[str]) -> int:
    """Return the position of the right option: a number of JSON is a position, a text may be either.

    Raises:
      UserError: the answer is neither an option nor a position, or it is one option and the position of
        another.
    """
    answer, given = line.filled("answer"), line.fields["answer"]
    by_position = int(answer) if answer.isdecimal() and int(answer) < len(options) else None
    by_text = options.index(answer) if answer in options and not isinstance(given, int) else None
    if by_text is None and by_position is None:
        positions = f"a position from 0 to {len(options) - 1}"
        raise UserError(f"{line.where}: answer must be an option or {positions}, not {answer!r}")
    if by_position is not None and by_text not in (None, by_position) and not line.is_json:
        raise UserError(
            f"{line.where}: answer {answer} is an option and also the position of {options[by_position]!r}; "
            f'write JSON lines, where {answer} is the position and "{answer}" the option'
        )
    return by_position if by_text is None else by_text  # pyright: ignore[reportReturnType]


_VALUES_OF: Mapping[type, Callable[[_Line], dict[str, Any]]] = {
    Caption: _caption,
    Count: _count,
    MultipleChoice: _choice,
    OpenQuestion: _open_question,
}
