"""Makes a data directory of a folder of videos and a table of captions: the user's own data.

The table is csv with a header line, or JSON lines, with `video` (file name below the folder) and `caption`,
and optionally `split` and `id`. What cannot be used is reported by name and left out; the rest is built.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import SPLITS, records_path, write_records
from data_pipelines.annotations.table import Row, read_table
from data_pipelines.corpus.ingest import OnProgress, counted, new_data_dir, silently, write_summary
from data_pipelines.decode import FrameIndex, UnreadableVideo, probe
from data_pipelines.tokenizer import build_vocab, load_tokenizer, write_vocab
from data_pipelines.transforms import check_aspect_ratio

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3gp", ".apng", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts",
    ".webm", ".webp", ".wmv",
})
# fmt: on
"""Files that are taken for videos even if no caption names them."""

SMALLEST_SPLIT_CORPUS = 50
"""With fewer videos and no `split` column, every video is in train, validation and test."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderReport:
    """What was built, and what was left out and why."""

    num_videos: int
    num_captions: dict[str, int]
    """Of each split."""
    split_rule: str
    unreadable: tuple[tuple[str, str], ...]
    """(file, reason)."""
    captions_without_video: tuple[str, ...]
    """Names in the table for which there is no file."""
    videos_without_caption: tuple[str, ...]
    """In the corpus, but in no split."""

    def __str__(self) -> str:
        captions = ", ".join(f"{count} {split}" for split, count in self.num_captions.items())
        lines = [f"{self.num_videos} videos; captions: {captions}; {self.split_rule}"]
        lines += [f"could not read {name}: {reason}" for name, reason in self.unreadable]
        lines += [f"no such video for a caption: {name}" for name in self.captions_without_video]
        lines += [f"no caption for video: {name}" for name in self.videos_without_caption]
        return "\n".join(lines)


def prepare_folder(
    videos_dir: str | Path,
    annotations_path: str | Path,
    data_dir: str | Path,
    *,
    vocab: str | Path | None = None,
    seed: int = 0,
    num_workers: int = 2,
    overwrite: bool = False,
    on_progress: OnProgress = silently,
) -> FolderReport:
    """Check every video, store the readable ones and their captions, and say what was left out.

    Without a `split` column 80 % of the videos are train, 10 % validation, 10 % test, by a hash of seed and
    file name, so that adding videos moves no other; but with fewer than `SMALLEST_SPLIT_CORPUS` videos every
    split holds all of them, which is what a trial with a handful of videos needs.

    Args:
      videos_dir: searched with its subfolders.
      annotations_path: csv or jsonl.
      data_dir: where; must not exist unless `overwrite`.
      vocab: vocab.txt or tokenizer folder to use; by default one is made from the captions.
      seed: of the split.
      num_workers: processes that check videos; 0 works in this one.
      overwrite: replace an older data directory.
      on_progress: called with the number of videos checked so far.

    Raises:
      UserError: a missing or empty folder, a table that cannot be understood, nothing usable.
    """
    from data_pipelines.corpus.builder import Video, write_videos  # late: keeps worker processes light

    videos_dir = Path(videos_dir)
    rows = read_table(Path(annotations_path))
    tokenizer = load_tokenizer(vocab) if vocab else None
    files = _find_videos(videos_dir, rows)
    with new_data_dir(data_dir, overwrite=overwrite) as new_dir:
        indices, unreadable = _check_videos(files, num_workers, on_progress)
        if not indices:
            name, reason = next(iter(unreadable.items()))
            raise UserError(f"none of the {len(files)} videos in {videos_dir} can be read; {name}: {reason}")
        names = _names_in_table(rows, files)
        usable = [dataclasses.replace(row, video=names[row.video]) for row in rows if row.video in names]
        usable = [row for row in usable if row.video in indices]
        if not usable:
            raise UserError(
                f"no caption of {annotations_path} belongs to a readable video in {videos_dir}; "
                f"`video` must be a file name such as {next(iter(indices))!r}"
            )
        captioned = sorted({row.video for row in usable})
        splits_of, split_rule = _splits(usable, captioned, seed)
        write_videos(
            new_dir, (Video(video_id=n, data=files[n].read_bytes(), index=i) for n, i in indices.items())
        )
        num_captions = {split: _write_captions(new_dir, split, usable, splits_of) for split in SPLITS}
        if tokenizer is not None:
            tokenizer.save(new_dir)
        else:
            write_vocab(new_dir / "vocab.txt", build_vocab(row.caption for row in usable))
        report = FolderReport(
            num_videos=len(indices),
            num_captions=num_captions,
            split_rule=split_rule,
            unreadable=tuple(unreadable.items()),
            captions_without_video=tuple(sorted({row.video for row in rows if row.video not in names})),
            videos_without_caption=tuple(sorted(set(indices) - set(captioned))),
        )
        write_summary(new_dir, source=str(videos_dir), seed=seed, **dataclasses.asdict(report))
    return report


def _find_videos(videos_dir: Path, rows: Sequence[Row]) -> dict[str, Path]:
    """Return name below the folder -> path, of files that look like videos or are named in the table."""
    if not videos_dir.is_dir():
        raise UserError(f"no folder of videos at {videos_dir}; give --videos the folder that holds them")
    named = {row.video for row in rows}
    found = {}
    for path in sorted(videos_dir.rglob("*")):
        name = path.relative_to(videos_dir).as_posix()
        if path.is_file() and (path.suffix.lower() in VIDEO_SUFFIXES or name in named):
            found[name] = path
    if not found:
        raise UserError(f"no videos in {videos_dir}; put files such as .mp4, .webm or .mkv there")
    return found


def _names_in_table(rows: Sequence[Row], files: dict[str, Path]) -> dict[str, str]:
    """Return table name -> file name; the table may leave out the suffix where that is clear."""
    stems: dict[str, list[str]] = {}
    for name, path in files.items():
        stems.setdefault(name.removesuffix(path.suffix), []).append(name)
    names = {}
    for video in {row.video for row in rows}:
        if video in files:
            names[video] = video
        elif len(stems.get(video, ())) == 1:
            names[video] = stems[video][0]
    return names


def _check_videos(
    files: dict[str, Path], num_workers: int, on_progress: OnProgress
) -> tuple[dict[str, FrameIndex], dict[str, str]]:
    """Decode all videos; return the index of the readable ones and the reason for the others."""
    indices: dict[str, FrameIndex] = {}
    unreadable: dict[str, str] = {}
    results = counted(_probe_all(list(files.values()), num_workers), on_progress)
    for name, result in zip(files, results, strict=True):
        if isinstance(result, str):
            unreadable[name] = result
        else:
            indices[name] = result
    return indices, unreadable


def _probe_all(paths: Sequence[Path], num_workers: int) -> Iterator[FrameIndex | str]:
    if num_workers < 2 or len(paths) < 2 * num_workers:
        yield from map(_index_or_reason, paths)
        return
    spawn = multiprocessing.get_context("spawn")  # forking is unsafe once JAX runs
    with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=spawn) as pool:
        yield from pool.map(_index_or_reason, paths)


def _index_or_reason(path: Path) -> FrameIndex | str:
    try:
        index = probe(path)[1]
        check_aspect_ratio(index.height, index.width)
    except UnreadableVideo as error:
        return error.reason
    except (UserError, OSError) as error:
        return str(error)
    return index


def _splits(rows: Sequence[Row], videos: Sequence[str], seed: int) -> tuple[dict[str, set[str]], str]:
    """Return split -> ids of its rows, and the rule in words."""
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
