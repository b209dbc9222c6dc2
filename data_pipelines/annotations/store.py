"""Reads and writes annotation records as JSON lines, one file per kind and split of a data directory.

annotations/<kind>/<split>.jsonl
annotations/<kind>/answers.json     the answer vocabulary, if the kind has one: position = label
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion

Record = TypeVar("Record", Caption, MultipleChoice, OpenQuestion, SoftQuestion, Count)

SPLITS = ("train", "validation", "test")
FOLDER_OF_KIND: dict[type, str] = {
    Caption: "captions",
    MultipleChoice: "multiple_choice",
    OpenQuestion: "open_questions",
    SoftQuestion: "soft_questions",
    Count: "counts",
}


def records_path(data_dir: str | Path, kind: type, split: str) -> Path:
    """Return the path of the records of a kind and split."""
    return Path(data_dir) / "annotations" / FOLDER_OF_KIND[kind] / f"{split}.jsonl"


def answers_path(data_dir: str | Path, kind: type) -> Path:
    """Return the path of the answer vocabulary of a kind."""
    return Path(data_dir) / "annotations" / FOLDER_OF_KIND[kind] / "answers.json"


def missing_videos_path(data_dir: str | Path, kind: type) -> Path:
    """Return the path of the list of missing videos that records of a kind name, one a line."""
    return Path(data_dir) / "annotations" / FOLDER_OF_KIND[kind] / "missing_videos.txt"


def write_records(path: Path, records: Iterable[Any]) -> int:
    """Write records as JSON lines, whole or not at all, and return their number."""
    lines = [json.dumps(dataclasses.asdict(record), ensure_ascii=False) + "\n" for record in records]
    write_whole(path, "".join(lines))
    return len(lines)


def read_records(data_dir: str | Path, kind: type[Record], split: str) -> list[Record]:
    """Return the records of a kind and split, in the order of the file.

    Raises:
      UserError: the file does not exist, a line is not a valid record, or an id occurs twice.
    """
    path = records_path(data_dir, kind, split)
    if not path.is_file():
        raise UserError(
            f"no {FOLDER_OF_KIND[kind]} for split {split!r}: {path} does not exist; use `clipbert prepare`"
        )
    records: list[Record] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        records.append(_read_record(kind, line, f"{path} line {number}"))
        first = line_of.setdefault(records[-1].id, number)
        if first != number:
            raise UserError(
                f"{path} lines {first} and {number} have the same id {records[-1].id!r}; make ids unique"
            )
    return records


def _read_record(kind: type[Record], line: str, where: str) -> Record:
    name = FOLDER_OF_KIND[kind].removesuffix("s").replace("_", " ")
    try:
        fields = json.loads(line)
        _check_fields(kind, fields)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return kind(**values)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}); correct it or remove the line") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is a bad {name}: {error}; correct it or remove the line") from error


def _check_fields(kind: type[Record], fields: Any) -> None:
    """Refuse a line without the fields of a record.

    Raises:
      ValueError: names the fields that are missing or unknown.
    """
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    all_fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = [
        name
        for name, field in all_fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in needed if name not in fields]:
        raise ValueError(f"it lacks {' and '.join(missing)}")
    if unknown := [name for name in fields if name not in all_fields]:
        raise ValueError(f"it has the unknown field {' and '.join(unknown)}")


def write_answers(data_dir: str | Path, kind: type, answers: Sequence[str]) -> None:
    """Write the answer vocabulary of a kind."""
    text = json.dumps(list(answers), ensure_ascii=False, indent=0) + "\n"
    write_whole(answers_path(data_dir, kind), text)


def read_answers(data_dir: str | Path, kind: type) -> tuple[str, ...]:
    """Return the answer vocabulary of a kind; an answer's position is its label.

    Raises:
      UserError: the vocabulary does not exist, or it is not a list of different texts.
    """
    path = answers_path(data_dir, kind)
    if not path.is_file():
        raise UserError(f"no answer vocabulary at {path}; use `clipbert prepare` of a dataset with answers")
    try:
        answers = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); prepare the annotations again") from error
    is_list = isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
    if not is_list or len(set(answers)) < len(answers):
        raise UserError(f"{path} is not a list of different answers; prepare the annotations again")
    return tuple(answers)
