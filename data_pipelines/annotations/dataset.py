"""What every dataset module gives: records, answers, names of video files, and what was checked.

Before: `files` reads the originals. After: `corpus/dataset.py` looks for the videos and writes it all down.
A new dataset is one module with one frozen dataclass like `annotations/msvd.py`; its fields are the options
of `clipbert prepare`, its docstring is the help.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from clipbert_jax.errors import UserError
from data_pipelines.annotations.store import FOLDER_OF_KIND

Records = Mapping[tuple[type, str], Sequence[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """A dataset as read.

    Raises:
      UserError: no records at all, or two of a split with one id.
    """

    records: Records
    """By kind and split."""
    answers: Mapping[type, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Answer vocabularies; position = label."""
    file_stems: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Video id -> names its file may have, without suffix, besides the id."""
    facts: tuple[str, ...] = ()
    """What was counted and checked, a line each, for the user."""

    def __post_init__(self) -> None:
        if not any(self.records.values()):
            raise UserError("no annotation files are given, so there is nothing to prepare; see --help")
        for (kind, split), records in self.records.items():
            id_, count = next(
                iter(collections.Counter(record.id for record in records).most_common(1)), ("", 0)
            )
            if count > 1:
                raise UserError(
                    f"{kind.__name__} {id_!r} is there {count} times in {split}; is a file given twice, or "
                    "two files pasted together?"
                )

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Videos that records name, sorted."""
        return tuple(sorted({record.video_id for records in self.records.values() for record in records}))


@runtime_checkable
class Dataset(Protocol):
    """A dataset's annotation files; a frozen dataclass whose fields are command line options."""

    def read(self) -> Annotations:
        """Read and check the files.

        Raises:
          UserError: a file is missing, is not what it should be, or has not the published counts.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicDataset:
    """What the published datasets have in common."""

    allow_partial: bool = False
    """Take files whose counts are not the published ones: a sample, or a revised edition."""

    def check(self, path: Path, name: str, found: Mapping[str, int], published: Mapping[str, int]) -> str:
        """Return a line that says what a file has, after a comparison with what was published.

        Args:
          path: of the file.
          name: of what it holds, such as `MSR-VTT's test split`.
          found: what is counted -> number.
          published: the same, or empty if not known for sure.

        Raises:
          UserError: the numbers differ and partial files are not allowed.
        """
        line = f"{path.name}: {in_words(found)}"
        if not published:
            return f"{line} (no published numbers to compare with)"
        relevant = {key: found[key] for key in published}
        if relevant == dict(published):
            return f"{line}, as published"
        if self.allow_partial:
            return f"{line}; {name} has {in_words(published)}: partial"
        raise UserError(
            f"{name} has {in_words(published)}; {path} has {in_words(relevant)}: it is truncated, or another "
            "file; --allow-partial takes it as it is"
        )


def in_words(numbers: Mapping[str, int]) -> str:
    """Return counts as `2,990 videos and 59,800 sentences`."""
    parts = [f"{number:,} {what}" for what, number in numbers.items()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def check_disjoint(name: str, records: Records) -> str:
    """Return a line that no video is in two splits.

    Raises:
      UserError: one is; evaluating on training videos would flatter the result.
    """
    split_of: dict[str, str] = {}
    for (_, split), of_split in records.items():
        for record in of_split:
            other = split_of.setdefault(record.video_id, split)
            if other != split:
                raise UserError(
                    f"video {record.video_id!r} is in {other} and in {split}; {name} keeps them apart: is a "
                    "file given for the wrong split?"
                )
    return "no video is in two splits"


def check_evaluation(records: Records, bad: Iterable[str], allow_missing: bool) -> None:
    """Refuse an evaluation that would silently be an easier or harder one.

    Raises:
      UserError: videos of validation or test are among the bad ones.
    """
    bad = set(bad)
    for (kind, split), of_split in records.items():
        lost = [record for record in of_split if record.video_id in bad]
        if split == "train" or not lost or allow_missing:
            continue
        raise UserError(
            f"{len({r.video_id for r in lost}):,} videos of the {split} split, {lost[0].video_id!r} first, "
            f"are missing or cannot be read, and with them {len(lost):,} of {len(of_split):,} "
            f"{FOLDER_OF_KIND[kind].replace('_', ' ')}: results would not compare with others. Add the "
            "videos, or leave these records out with --allow-missing-videos"
        )


def num_videos(records: Iterable[Any]) -> int:
    """Return of how many videos there are records."""
    return len({record.video_id for record in records})


def numbered_repeats(ids: Iterable[str]) -> list[str]:
    """Return ids with `_2`, `_3` ... behind those that came before, for files whose ids may repeat."""
    seen: collections.Counter[str] = collections.Counter()
    unique = []
    for id_ in ids:
        seen[id_] += 1
        unique.append(id_ if seen[id_] == 1 else f"{id_}_{seen[id_]}")
    return unique
