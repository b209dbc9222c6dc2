"""A user's own captions or questions, from a csv or jsonl table, as a dataset like the public ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.annotations.answers import question_vocabulary
from data_pipelines.annotations.dataset import Annotations, check_disjoint, num_videos
from data_pipelines.annotations.records import OpenQuestion
from data_pipelines.annotations.store import SPLITS
from data_pipelines.annotations.table import read_any_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnTable:
    """Your own captions or questions: a csv file with a header line, or JSON lines.

    The columns (or keys) decide the kind:
      captions         video, caption
      open questions   video, question, answer
      multiple choice  video, question, a1, a2, ... (or a list `options`), answer
      counts           video, question, count

    Each also needs `split` (train, validation or test) and may have `id`. `video` is the name of a file, with
    or without its suffix and folder. The answer of a multiple choice is the text of an option, or its
    position from 0; in JSON lines a number is always a position.

    Use `clipbert prepare folder` for captions without splits, or to see which videos have no caption.
    """

    table: Path
    """The .csv or .jsonl file."""
    ans2label: Path | None = None
    """Open questions: answers and their labels as JSON, {"cat": 0, "dog": 1}."""
    num_answers: int = 1_000
    """Open questions: number of answers to take from train, if --ans2label is not given."""

    def read(self) -> Annotations:
        """Read the table."""
        rows = read_any_table(self.table)
        if rows[0].split is None:
            raise UserError(f"{self.table} has no column `split`; add it, with train, validation or test")
        kind = rows[0].kind
        records = {
            (kind, split): [row.record(row.video) for row in rows if row.split == split]
            for split in SPLITS
            if any(row.split == split for row in rows)
        }
        facts = [
            f"{self.table.name}, {split}: {len(of_split):,} lines on {num_videos(of_split):,} videos"
            for (_, split), of_split in records.items()
        ]
        facts.append(check_disjoint("a fair evaluation", records))
        if kind is not OpenQuestion:
            return Annotations(records=records, facts=tuple(facts), merges_copies=True)
        answers, lines = question_vocabulary(records, self.ans2label, self.num_answers, allow_partial=False)
        facts += lines
        return Annotations(records=records, answers={kind: answers}, facts=tuple(facts), merges_copies=True)
