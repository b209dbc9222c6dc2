"""Makes a data directory of a folder of videos and a table of captions: the user's own data.

The table is csv with a header line, or JSON lines, with `video` (file name below the folder) and `caption`,
and optionally `split` and `id`. What cannot be used is reported by name and left out; the rest is built.
"""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import io
import json
import multiprocessing
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import SPLITS, records_path, write_records
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

_SPLIT_OF = {
    **{split: split for split in SPLITS},
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
}


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """A line of the table; `split` is None where the table has no such column."""

    video: str
    caption: str
    id: str
    split: str | None


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
    rows = _read_table(Path(annotations_path))
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
            _copy_vocab(Path(vocab or ""), new_dir)
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


def _read_table(path: Path) -> list[_Row]:
    """Return the rows of a csv or jsonl file.

    Raises:
      UserError: no file, another format, a column or value is missing.
    """
    if not path.is_file():
        raise UserError(
            f"no annotations at {path}; give --annotations a csv or jsonl file with `video` and `caption`"
        )
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{path} is neither .csv nor .jsonl; those are the formats understood")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    numbered = _read_csv(path, text) if path.suffix == ".csv" else _read_json_lines(path, text)
    rows = [_make_row(path, number, fields) for number, fields in numbered]
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
            f"{path} line {number} is no csv ({error}); is a quote not closed? Within quotes, write it twice"
        ) from error


def _check_count(path: Path, number: int, values: Sequence[str], columns: Sequence[str]) -> None:
    remedy = "put quotes around a caption with commas"
    if len(values) < len(columns):
        remedy = "give all of them, if only as empty"
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
        raise UserError(f"{path} line {number} is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f'{path} line {number} must be an object such as {{"video": ..., "caption": ...}}')
    _check_columns(path, tuple(fields), where=f" line {number}")
    return fields


def _check_columns(path: Path, found: Sequence[str], where: str = "") -> None:
    missing = [name for name in ("video", "caption") if name not in found]
    if missing:
        raise UserError(
            f"{path}{where} lacks {' and '.join(missing)}; found: {', '.join(found) or 'nothing'}; "
            "needed: video, caption; optional: split, id"
        )


def _make_row(path: Path, number: int, fields: dict[str, object]) -> _Row:
    video, caption, split, caption_id = (
        _text(path, number, key, fields.get(key)) for key in ("video", "caption", "split", "id")
    )
    if not video or not caption:
        raise UserError(
            f"{path} line {number} has an empty {'caption' if video else 'video'}; fill it or remove the line"
        )
    if split and split not in _SPLIT_OF:
        raise UserError(f"{path} line {number}: split must be train, validation or test, not {split!r}")
    return _Row(
        video=video,
        caption=caption,
        id=caption_id or f"caption_{number:06d}",
        split=_SPLIT_OF[split] if split else None,
    )


def _text(path: Path, number: int, key: str, value: object) -> str:
    """Return a value of the table, empty if there is none; JSON may give numbers."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise UserError(f"{path} line {number}: {key} must be text, not {json.dumps(value)}")
    return "" if value is None else str(value).strip()


def _find_videos(videos_dir: Path, rows: Sequence[_Row]) -> dict[str, Path]:
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


def _names_in_table(rows: Sequence[_Row], files: dict[str, Path]) -> dict[str, str]:
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


def _splits(rows: Sequence[_Row], videos: Sequence[str], seed: int) -> tuple[dict[str, set[str]], str]:
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


def _write_captions(new_dir: Path, split: str, rows: Sequence[_Row], splits_of: dict[str, set[str]]) -> int:
    captions = [
        Caption(id=row.id, video_id=row.video, text=row.caption) for row in rows if row.id in splits_of[split]
    ]
    return write_records(records_path(new_dir, Caption, split), captions)


def _copy_vocab(vocab: Path, new_dir: Path) -> None:
    """Copy the vocabulary and, if there is one, the file that says whether letters become lower case."""
    folder = vocab if vocab.is_dir() else vocab.parent
    shutil.copyfile(folder / "vocab.txt" if vocab.is_dir() else vocab, new_dir / "vocab.txt")
    if (folder / "tokenizer_config.json").is_file():
        shutil.copyfile(folder / "tokenizer_config.json", new_dir / "tokenizer_config.json")
