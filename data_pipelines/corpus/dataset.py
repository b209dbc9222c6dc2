"""Builds a data directory from a dataset's annotations and the user's copy of its videos.

`clipbert prepare` calls it. Evaluation never shrinks in silence: if a video of the validation or test split
is missing or unreadable, nothing is built. With `allow_missing_videos` its records are left out and counted.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import UserError
from data_pipelines.annotations.dataset import Annotations, Dataset, check_evaluation
from data_pipelines.annotations.store import (
    FOLDER_OF_KIND,
    answers_path,
    missing_videos_path,
    records_path,
    write_answers,
    write_records,
)
from data_pipelines.corpus.copies import comparable, lines_about, merged, same_bytes
from data_pipelines.corpus.ingest import (
    IngestOptions,
    IngestReport,
    OnProgress,
    ingest,
    new_data_dir,
    silently,
    write_summary,
)
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.corpus.sources import open_source
from data_pipelines.corpus.video_source import VideoSource
from data_pipelines.tokenizer import build_vocab, load_tokenizer, write_vocab

_NUM_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """Counts of what was built, and reasons for what was left out."""

    facts: tuple[str, ...]
    num_records: dict[str, dict[str, int]]
    """Number of records by kind and split."""
    num_lost: dict[str, dict[str, int]]
    """Number of records left out because their video is missing or unreadable, by kind and split."""
    num_videos: int
    """Number of videos that records name and the corpus has."""
    missing: tuple[str, ...]
    """Ids of videos without a file."""
    ingested: IngestReport | None
    """Report on the videos; None if records were added to a data directory."""

    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]:
        """Pairs (video id, reason)."""
        return self.ingested.unreadable if self.ingested else ()

    @property
    def bad_share(self) -> float:
        """Share of the named videos that are missing or unreadable."""
        num_bad = len(self.missing) + len(self.unreadable)
        return num_bad / max(1, num_bad + self.num_videos)

    def __str__(self) -> str:
        lines = [*self.facts]
        for kind, numbers in self.num_records.items():
            counts = ", ".join(f"{count:,} {split}" for split, count in numbers.items())
            lines.append(f"{kind.replace('_', ' ')}: {counts}")
        lines.append(str(self.ingested or f"{self.num_videos:,} videos were already there"))
        if self.missing:
            lines.append(f"{len(self.missing):,} videos are missing; missing_videos.txt lists them:")
            lines += [f"  {video_id}" for video_id in self.missing[:_NUM_SHOWN]]
            if len(self.missing) > _NUM_SHOWN:
                lines.append(f"  and {len(self.missing) - _NUM_SHOWN:,} more")
        lines += [
            f"left out without their video: {count:,} {split} {kind.replace('_', ' ')}"
            for kind, numbers in self.num_lost.items()
            for split, count in numbers.items()
            if count
        ]
        return "\n".join(lines)


def prepare_dataset(
    dataset: Dataset,
    data_dir: str | Path,
    *,
    videos: str | Path | None,
    options: IngestOptions | None = None,
    vocab: str | Path | None = None,
    allow_missing_videos: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress = silently,
) -> DatasetReport:
    """Store the records of a dataset and the videos that they name, or add records to a corpus.

    Args:
      dataset: the annotation files.
      data_dir: the data directory; with `videos` it must not exist unless `overwrite`.
      videos: folder, zip, tar, LMDB folder or list of paths; None adds the records to an existing data
        directory, whose videos may have come with another dataset.
      options: options for checking and storing videos.
      vocab: vocab.txt or tokenizer folder; None makes a vocabulary from the texts, or keeps that of the data
        directory.
      allow_missing_videos: leave out validation and test records without a readable video.
      overwrite: replace an older data directory, or older records of the same kind.
      on_progress: called with the number of videos checked so far.

    Raises:
      UserError: the annotations differ from the published ones, or videos are missing.
    """
    annotations = dataset.read()  # first: it takes seconds, the videos may take hours
    tokenizer = load_tokenizer(vocab) if vocab else None
    if videos is None:
        return _add_records(annotations, Path(data_dir), tokenizer, allow_missing_videos, overwrite)
    source = open_source(videos)
    wanted = resolve_videos(annotations, source.names)
    missing = tuple(video_id for video_id in annotations.video_ids if video_id not in wanted)
    if not wanted:
        raise UserError(
            f"{videos} has none of the {len(missing):,} videos; their names are such as {missing[0]}.mp4"
        )
    annotations, wanted = _without_copies(annotations, wanted, source)
    check_evaluation(annotations.records, missing, allow_missing_videos)
    with new_data_dir(data_dir, overwrite=overwrite) as new_dir:
        ingested = ingest(new_dir, source, wanted, options or IngestOptions(), on_progress=on_progress)
        bad = {*missing, *(video_id for video_id, _ in ingested.unreadable)}
        check_evaluation(annotations.records, bad, allow_missing_videos)
        report = _write(new_dir, annotations, missing, ingested)
        _write_vocab(new_dir, annotations, tokenizer)
        write_summary(new_dir, source=str(videos), **dataclasses.asdict(report))
    return report


def resolve_videos(annotations: Annotations, names: Iterable[str]) -> dict[str, str]:
    """Return the name in a source of each video's file, for the videos that have one.

    A file belongs to a video if the last part of its name, with or without suffix, is the id or one of the
    dataset's other names for it. Hidden files do not count.

    Raises:
      UserError: two files match one video.
    """
    names_of: dict[str, set[str]] = collections.defaultdict(set)
    for name in names:
        last = PurePosixPath(name)
        if not last.name.startswith("."):
            for key in {name, last.name, last.stem}:
                names_of[comparable(key)].add(name)
    found = {}
    for video_id in annotations.video_ids:
        keys = (video_id, *annotations.file_stems.get(video_id, ()))
        candidates = sorted(set().union(*(names_of.get(comparable(key), ()) for key in keys)))
        if len(candidates) > 1:
            raise UserError(
                f"{candidates[0]} and {candidates[1]} could both be video {video_id!r}; remove one, or give "
                "--videos the folder that holds the right one"
            )
        if candidates:
            found[video_id] = candidates[0]
    return found


def _without_copies(
    annotations: Annotations, wanted: dict[str, str], source: VideoSource
) -> tuple[Annotations, dict[str, str]]:
    """Give each video one id, if it has several names or copies; `wanted` then lacks the others."""
    if not annotations.merges_copies:
        return annotations, wanted
    first_file_of = same_bytes(source, wanted.values())
    ids: dict[str, list[str]] = collections.defaultdict(list)
    for video_id, name in sorted(wanted.items(), key=lambda item: (item[1], item[0])):
        ids[first_file_of.get(name, name)].append(video_id)
    first_of = {other: same[0] for same in ids.values() for other in same[1:]}
    records = merged(annotations.records, first_of)
    facts = (*annotations.facts, *lines_about(first_of))
    kept = {video_id: name for video_id, name in wanted.items() if video_id not in first_of}
    return dataclasses.replace(annotations, records=records, facts=facts), kept


def _add_records(
    annotations: Annotations, data_dir: Path, tokenizer: Any, allow_missing: bool, overwrite: bool
) -> DatasetReport:
    """Write records into a data directory that has the videos, with the ids of its corpus."""
    corpus = open_corpus(data_dir)
    id_of = resolve_videos(annotations, corpus.ids)
    missing = tuple(video_id for video_id in annotations.video_ids if video_id not in id_of)
    if not id_of:
        raise UserError(
            f"{data_dir} has none of the {len(missing):,} videos, such as {missing[0]!r}; give --videos to "
            "build a corpus with them"
        )
    has_vocab = (data_dir / "vocab.txt").is_file()
    if tokenizer is not None and has_vocab:
        raise UserError(
            f"{data_dir} already has a vocabulary, which its other records rely on; leave out --vocab"
        )
    for path in _paths(annotations, data_dir):
        if path.exists() and not overwrite:
            raise UserError(
                f"{path} already exists; choose another --data-dir, or replace it with --overwrite"
            )
    check_evaluation(annotations.records, missing, allow_missing)
    records = merged(annotations.records, {other: id_ for other, id_ in id_of.items() if other != id_})
    if not has_vocab:  # the videos came without texts
        _write_vocab(data_dir, annotations, tokenizer)
    report = _write(data_dir, dataclasses.replace(annotations, records=records), missing, None)
    _add_to_summary(data_dir, report)
    return report


def _write(
    data_dir: Path, annotations: Annotations, missing: Sequence[str], ingested: IngestReport | None
) -> DatasetReport:
    """Write the records of the available videos, the answers, and the list of missing videos."""
    bad = {*missing, *(video_id for video_id, _ in (ingested.unreadable if ingested else ()))}
    num_records: dict[str, dict[str, int]] = collections.defaultdict(dict)
    num_lost: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for (kind, split), of_split in annotations.records.items():
        usable = [record for record in of_split if record.video_id not in bad]
        folder = FOLDER_OF_KIND[kind]
        num_records[folder][split] = write_records(records_path(data_dir, kind, split), usable)
        num_lost[folder][split] = len(of_split) - len(usable)
    for kind, answers in annotations.answers.items():
        write_answers(data_dir, kind, answers)
    for kind in {kind for kind, _ in annotations.records}:
        path = missing_videos_path(data_dir, kind)
        if missing:
            write_whole(path, "".join(f"{video_id}\n" for video_id in missing))
        else:
            path.unlink(missing_ok=True)
    return DatasetReport(
        facts=annotations.facts,
        num_records=dict(num_records),
        num_lost=dict(num_lost),
        num_videos=len(set(annotations.video_ids) - bad),
        missing=tuple(missing),
        ingested=ingested,
    )


def _write_vocab(data_dir: Path, annotations: Annotations, tokenizer: Any) -> None:
    if tokenizer is not None:
        tokenizer.save(data_dir)
        return
    texts = (
        text for of_split in annotations.records.values() for record in of_split for text in _texts(record)
    )
    write_vocab(data_dir / "vocab.txt", build_vocab(texts))


def _texts(record: Any) -> Iterable[str]:
    fields: Mapping[str, Any] = vars(record)
    return (*(fields[key] for key in ("text", "question") if key in fields), *fields.get("options", ()))


def _paths(annotations: Annotations, data_dir: Path) -> list[Path]:
    paths = [records_path(data_dir, kind, split) for kind, split in annotations.records]
    return paths + [answers_path(data_dir, kind) for kind in annotations.answers]


def _add_to_summary(data_dir: Path, report: DatasetReport) -> None:
    path = data_dir / "prepare.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    summary.setdefault("added", []).append(dataclasses.asdict(report))
    write_whole(path, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
