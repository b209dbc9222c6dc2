"""Reads and writes annotation records as JSON lines, one file per kind and split of a data directory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption, MultipleChoice, OpenQuestion

Record = TypeVar("Record", Caption, MultipleChoice, OpenQuestion)

SPLITS = ("train", "validation", "test")
FOLDER_OF_KIND = {Caption: "captions", MultipleChoice: "multiple_choice", OpenQuestion: "open_questions"}


def records_path(data_dir: str | Path, kind: type, split: str) -> Path:
    """Return where the records of a kind and split are kept."""
    return Path(data_dir) / "annotations" / FOLDER_OF_KIND[kind] / f"{split}.jsonl"


def write_records(path: Path, records: Iterable[Any]) -> int:
    """Write records as JSON lines and return their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dataclasses.asdict(record), ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def read_records(data_dir: str | Path, kind: type[Record], split: str) -> list[Record]:
    """Return the records of a kind and split, in the order of the file.

    Raises:
      UserError: no such file, or a line that is no such record.
    """
    path = records_path(data_dir, kind, split)
    if not path.is_file():
        raise UserError(
            f"no {FOLDER_OF_KIND[kind]} for split {split!r}: {path} does not exist; use `clipbert prepare`"
        )
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            fields: dict[str, Any] = json.loads(line)
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            records.append(kind(**values))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} line {number} is no {kind.__name__} record: {error}") from error
    return records
