"""What every dataset module returns: records, answers, names of video files, and facts that were checked.

`corpus/dataset.py` finds the videos of a dataset and stores everything. A new dataset is one module with one
frozen dataclass like `annotations/msvd.py`: its fields become options of `clipbert prepare`, its docstring
the help.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from clipbert_jax.errors import UserError
from data_pipelines.annotations.store import FOLDER_OF_KIND, SPLITS

Records = Mapping[tuple[type, str], Sequence[Any]]

Published = Mapping[str, int | tuple[int, ...]]
"""The published numbers by what is counted; several where the paper and the file differ."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """The content of a dataset's annotation files.

    Raises:
      UserError: there are no records, or two records of a split have the same id.
    """

    records: Records
    """Records by kind and split."""
    answers: Mapping[type, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Answer vocabulary of each kind; the position of an answer is its label."""
    file_stems: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Other names, without suffix, that the file of a video may have."""
    facts: tuple[str, ...] = ()
    """Lines for the user about what was counted and checked."""
    merges_copies: bool = False
    """Whether videos with the same bytes become one; published datasets stay as they are."""

    def __post_init__(self) -> None:
        if not any(self.records.values()):
            raise UserError("no annotation files are given; --help lists the options that name them")
        for (kind, split), records in self.records.items():
            id_, count = next(
                iter(collections.Counter(record.id for record in records).most_common(1)), ("", 0)
            )
            if count > 1:
                raise UserError(
                    f"{kind.__name__} {id_!r} occurs {count} times in {split}; check that no file is given "
                    "twice and that no two files were pasted together"
                )

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Ids of the videos that records name, sorted."""
        return tuple(sorted({record.video_id for records in self.records.values() for record in records}))


@runtime_checkable
class Dataset(Protocol):
    """The annotation files of a dataset: a frozen dataclass whose fields are command line options."""

    def read(self) -> Annotations:
        """Read and check the files.

        Raises:
          UserError: a file is missing, has the wrong format, or does not have the published counts.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicDataset:
    """Base of the published datasets, which compares what it reads with the published counts."""

    allow_partial: bool = False
    """Accept files with other counts than the published ones, such as a sample or a revised edition."""

    @property
    def given_files(self) -> dict[str, Any]:
        """What the user gave for each split: the value of --train, --validation or --test."""
        given = {split: getattr(self, split, None) for split in SPLITS}
        return {split: value for split, value in given.items() if value is not None}

    def read_splits(
        self,
        name: str,
        kind: type,
        read: Callable[[Any, str], Sequence[Any]],
        published: Mapping[str, Published],
        *,
        nouns: tuple[str, str],
    ) -> tuple[dict[tuple[type, str], Sequence[Any]], list[str]]:
        """Read the records of each given split, and compare their counts with the published ones.

        Args:
          name: name of the dataset.
          kind: type of the records.
          read: makes the records of a split from the given value and the name of the split.
          published: the published numbers of each split, see `check`.
          nouns: names of what is counted: the records, and their videos.

        Returns:
          The records, and a line about each split.

        Raises:
          UserError: a file cannot be read, or its counts differ from the published ones.
        """
        records: dict[tuple[type, str], Sequence[Any]] = {}
        facts = []
        for split, value in self.given_files.items():
            of_split = records[kind, split] = read(value, split)
            path = value[0] if isinstance(value, tuple) else value
            found = dict(zip(nouns, (len(of_split), num_videos(of_split)), strict=True))
            facts.append(self.check(path, f"{name}'s {split} split", found, published.get(split, {})))
        return records, facts

    def check(self, path: Path, name: str, found: Mapping[str, int], published: Published) -> str:
        """Compare the counts of a file with the published ones, and return a line about it.

        Args:
          path: the file.
          name: name of its content, such as `MSR-VTT's test split`.
          found: numbers by what is counted.
          published: the published numbers; empty if they are not known for sure.

        Raises:
          UserError: the numbers differ and partial files are not allowed.
        """
        line = f"{path.name}: {in_words(found)}"
        if not published:
            return f"{line} (no published numbers to compare with)"
        relevant = {key: found[key] for key in published}
        if all(found[key] in _accepted(count) for key, count in published.items()):
            return f"{line}, as published"
        published = {key: _accepted(count)[0] for key, count in published.items()}
        if self.allow_partial:
            return f"{line}; {name} has {in_words(published)}: partial"
        raise UserError(
            f"{name} has {in_words(published)}; {path} has {in_words(relevant)}, so it is truncated or "
            "another file; --allow-partial accepts it"
        )


def _accepted(published: int | tuple[int, ...]) -> tuple[int, ...]:
    return published if isinstance(published, tuple) else (published,)


def in_words(numbers: Mapping[str, int]) -> str:
    """Return counts as `2,990 videos and 59,800 sentences`."""
    parts = [f"{number:,} {what}" for what, number in numbers.items()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def check_disjoint(name: str, records: Records) -> str:
    """Check that no video is in two splits, and return a line that says so.

    Raises:
      UserError: a video is in two; evaluating on training videos would flatter the result.
    """
    split_of: dict[str, str] = {}
    for (_, split), of_split in records.items():
        for record in of_split:
            other = split_of.setdefault(record.video_id, split)
            if other != split:
                raise UserError(
                    f"video {record.video_id!r} is in {other} and in {split}; {name} keeps them apart; check "
                    "that each file is given for its own split"
                )
    return "no video is in two splits"


def check_evaluation(records: Records, bad: Iterable[str], allow_missing: bool) -> None:
    """Refuse to leave out records of validation or test, which would change the evaluation in silence.

    Raises:
      UserError: videos of validation or test are among the bad ones, and `allow_missing` is not set.
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
    """Return the number of different videos that the records name."""
    return len({record.video_id for record in records})


def numbered_repeats(ids: Iterable[str]) -> list[str]:
    """Append `_2`, `_3` ... to ids that repeat, so that each is unique."""
    seen: collections.Counter[str] = collections.Counter()
    unique = []
    for id_ in ids:
        seen[id_] += 1
        unique.append(id_ if seen[id_] == 1 else f"{id_}_{seen[id_]}")
    return unique
