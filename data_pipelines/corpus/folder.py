"""Builds a data directory from the user's own folder of videos and table of captions.

`clipbert prepare folder` calls it. Videos and captions that cannot be used are left out and named in the
report.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from clipbert_jax.errors import UserError
from data_pipelines.annotations.dataset import check_evaluation
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import SPLITS, records_path, write_records
from data_pipelines.annotations.table import Row, read_table
from data_pipelines.corpus.ingest import (
    IngestOptions,
    IngestReport,
    OnProgress,
    ingest,
    new_data_dir,
    silently,
    write_summary,
)
from data_pipelines.corpus.sources import open_source
from data_pipelines.tokenizer import build_vocab, load_tokenizer, write_vocab

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3gp", ".apng", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts",
    ".webm", ".webp", ".wmv",
    ".avif", ".heic", ".heif",
    ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff",
})
# fmt: on
"""Suffixes of files that count as videos (or images) even if no caption names them."""

SMALLEST_SPLIT_CORPUS = 50
"""Number of videos below which, without a `split` column, every split holds all videos."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderReport:
    """Counts of what was built, and reasons for what was left out."""

    num_videos: int
    num_captions: dict[str, int]
    """Number of captions in each split."""
    split_rule: str
    unreadable: tuple[tuple[str, str], ...]
    """Pairs (file, reason)."""
    num_lost: dict[str, int]
    """Number of captions in each split of the table whose video is missing or unreadable."""
    captions_without_video: tuple[str, ...]
    """Video names in the table without a file."""
    videos_without_caption: tuple[str, ...]
    """Videos in the corpus that are not in any split."""
    ingested: IngestReport

    @property
    def bad_share(self) -> float:
        """Share of the videos that could not be read."""
        return self.ingested.bad_share

    def __str__(self) -> str:
        captions = ", ".join(f"{count} {split}" for split, count in self.num_captions.items())
        lines = [f"{self.num_videos} videos; captions: {captions or 'none'}; {self.split_rule}"]
        lines.append(str(self.ingested))
        lines += [
            f"left out without their video: {count:,} {split} captions"
            for split, count in self.num_lost.items()
            if count
        ]
        lines += [f"no such video for a caption: {name}" for name in self.captions_without_video]
        lines += [f"no caption for video: {name}" for name in self.videos_without_caption]
        return "\n".join(lines)


def prepare_folder(
    videos_dir: str | Path,
    annotations_path: str | Path | None,
    data_dir: str | Path,
    *,
    options: IngestOptions | None = None,
    vocab: str | Path | None = None,
    seed: int = 0,
    num_workers: int = 2,
    allow_missing_videos: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress = silently,
) -> FolderReport:
    """Check every video, store the readable ones and their captions, and say what was left out.

    Without a `split` column 80 % of the videos are train, 10 % validation, 10 % test. A hash of seed and file
    name decides, so added videos do not move the others. With fewer than `SMALLEST_SPLIT_CORPUS` videos every
    split holds all of them, for a trial with a handful of videos.

    Args:
      videos_dir: a folder, searched with its subfolders, or another source that `open_source` reads.
      annotations_path: csv or jsonl file; None stores the videos alone.
      data_dir: the data directory; it must not exist unless `overwrite`.
      options: options for checking and storing videos; replaces `num_workers`.
      vocab: vocab.txt or tokenizer folder; None makes a vocabulary from the captions.
      seed: seed of the split.
      num_workers: number of processes that check and store videos; 0 works in this one.
      allow_missing_videos: leave out validation and test captions of the table without a readable video.
      overwrite: replace an older data directory.
      on_progress: called with the number of videos checked so far.

    Raises:
      UserError: the folder is missing or empty, the table cannot be understood, nothing is usable, or videos
        of validation or test are missing.
    """
    options = options or IngestOptions(num_workers=num_workers)
    rows = read_table(Path(annotations_path)) if annotations_path else []
    tokenizer = load_tokenizer(vocab) if vocab else None
    source = open_source(videos_dir)
    files = _find_videos(videos_dir, source.names, rows)
    names = _names_in_table(rows, files)
    named = [dataclasses.replace(row, video=names[row.video]) for row in rows if row.video in names]
    _check_usable(rows, named, annotations_path, videos_dir, files[0])
    bad = {row.video for row in rows} - {*names}
    check_evaluation(_in_splits(rows), bad, allow_missing_videos)
    with new_data_dir(data_dir, overwrite=overwrite) as new_dir:
        ingested = ingest(new_dir, source, {name: name for name in files}, options, on_progress)
        if not ingested.video_ids:
            name, reason = ingested.unreadable[0]
            raise UserError(f"cannot read any of the {len(files)} videos in {videos_dir}; {name}: {reason}")
        readable = set(ingested.video_ids)
        usable = [row for row in named if row.video in readable]
        _check_usable(rows, usable, annotations_path, videos_dir, ingested.video_ids[0])
        bad |= {video for video, name in names.items() if name not in readable}
        check_evaluation(_in_splits(rows), bad, allow_missing_videos)
        captioned = sorted({row.video for row in usable})
        splits_of, split_rule = _splits(usable, captioned, seed) if rows else ({}, "no table of captions")
        num_captions = {split: _write_captions(new_dir, split, usable, splits_of) for split in splits_of}
        if tokenizer is not None:
            tokenizer.save(new_dir)
        elif rows:
            write_vocab(new_dir / "vocab.txt", build_vocab(row.caption for row in usable))
        report = FolderReport(
            num_videos=len(readable),
            num_captions=num_captions,
            split_rule=split_rule,
            unreadable=ingested.unreadable,
            num_lost={
                split: sum(caption.video_id in bad for caption in captions)
                for (_, split), captions in _in_splits(rows).items()
            },
            captions_without_video=tuple(sorted({row.video for row in rows if row.video not in names})),
            videos_without_caption=tuple(sorted(readable - set(captioned))) if rows else (),
            ingested=ingested,
        )
        write_summary(new_dir, source=str(videos_dir), seed=seed, **dataclasses.asdict(report))
    return report


def _in_splits(rows: Sequence[Row]) -> dict[tuple[type, str], list[Caption]]:
    """Return the captions of each split of the table, with its names of videos."""
    return {
        (Caption, split): [
            Caption(id=row.id, video_id=row.video, text=row.caption) for row in rows if row.split == split
        ]
        for split in SPLITS
        if any(row.split == split for row in rows)
    }


def _check_usable(
    rows: Sequence[Row], usable: Sequence[Row], table: str | Path | None, videos: str | Path, example: str
) -> None:
    if rows and not usable:
        raise UserError(
            f"no caption of {table} belongs to a readable video in {videos}; "
            f"`video` must be a file name such as {example!r}"
        )


def _find_videos(videos_dir: str | Path, names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return the names that look like videos or are named in the table; LMDB keys need no suffix."""
    named = {row.video for row in rows}
    suffixes = VIDEO_SUFFIXES | ({""} if (Path(videos_dir) / "data.mdb").is_file() else set())
    found = [n for n in names if PurePosixPath(n).suffix.lower() in suffixes or n in named]
    if not found:
        raise UserError(f"no videos in {videos_dir}; put files such as .mp4, .webm or .mkv there")
    return found


def _names_in_table(rows: Sequence[Row], files: Sequence[str]) -> dict[str, str]:
    """Return the file name of each name in the table, which may lack the suffix if only one file fits."""
    stems: dict[str, list[str]] = {}
    for name in files:
        stems.setdefault(name.removesuffix(PurePosixPath(name).suffix), []).append(name)
    names = {}
    known = set(files)
    for video in {row.video for row in rows}:
        if video in known:
            names[video] = video
        elif len(stems.get(video, ())) == 1:
            names[video] = stems[video][0]
    return names


def _splits(rows: Sequence[Row], videos: Sequence[str], seed: int) -> tuple[dict[str, set[str]], str]:
    """Return the ids of the rows in each split, and the rule in words."""
    if rows[0].split is not None:
        return {s: {row.id for row in rows if row.split == s} for s in SPLITS}, "splits as in the table"
    if len(videos) < SMALLEST_SPLIT_CORPUS:
        everything = {row.id for row in rows}
        rule = f"fewer than {SMALLEST_SPLIT_CORPUS} videos and no split column: every split holds all of them"
        return dict.fromkeys(SPLITS, everything), rule
    share = {video: zlib.crc32(f"{seed}:{video}".encode()) / 2**32 for video in videos}
    split_of = {
        video: "train" if share[video] < 0.8 else "validation" if share[video] < 0.9 else "test"
        for video in videos
    }
    rule = "no split column: 80 % train, 10 % validation, 10 % test, by hash of the file name"
    return {s: {row.id for row in rows if split_of[row.video] == s} for s in SPLITS}, rule


def _write_captions(new_dir: Path, split: str, rows: Sequence[Row], splits_of: dict[str, set[str]]) -> int:
    captions = [
        Caption(id=row.id, video_id=row.video, text=row.caption) for row in rows if row.id in splits_of[split]
    ]
    return write_records(records_path(new_dir, Caption, split), captions)
