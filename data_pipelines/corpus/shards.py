"""Writes a corpus shard by shard, so that a killed build continues where it was; `ingest` and `beam` call it.

The folder `<name>.ingest/` beside the new data directory holds the finished shards under temporary names, and
a journal of each. A shard is finished once its journal exists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.atomic_files import remove_unfinished, write_whole
from clipbert_jax.errors import UserError
from data_pipelines.corpus.builder import (
    RecordEncoder,
    shard_path,
    video_digest,
    write_metadata,
    write_shard,
)
from data_pipelines.corpus.entry import CorpusEntry
from data_pipelines.corpus.reader import FORMAT_VERSION
from data_pipelines.decoding.video import FrameIndex
from data_pipelines.workers.isolation import Failure

MIN_VIDEOS_PER_SHARD = 32
"""Videos per shard: an ArrayRecord file takes at least 64 KiB, and a kill loses an unfinished shard."""
MAX_SHARDS = 1024

OnOutcome = Callable[[Any, CorpusEntry | Failure], None]
"""Called with an item and its outcome."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Journal:
    """Outcomes of the videos of one shard, or of all shards."""

    video_ids: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    """Fingerprint of each video."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Pairs (video id, reason)."""
    num_that_may_pass: int = 0
    """Number of unreadable videos whose failure the machine may have caused."""
    num_record_bytes: int = 0
    num_bytes_before: int = 0
    num_bytes_after: int = 0
    num_frames_before: int = 0
    num_frames_after: int = 0
    max_time_error_seconds: float = 0.0

    @property
    def num_videos(self) -> int:
        """Number of videos, stored or not."""
        return len(self.video_ids) + len(self.unreadable)


def _journal_of(video_id: str, outcome: CorpusEntry | Failure) -> Journal:
    """Return the journal of one video."""
    if isinstance(outcome, Failure):
        reason = " ".join(outcome.reason.split())
        return Journal(unreadable=((video_id, reason),), num_that_may_pass=int(outcome.may_pass))
    note = outcome.video.note
    return Journal(
        video_ids=(video_id,),
        digests=(video_digest(outcome.video),),
        num_bytes_before=note.num_bytes_before,
        num_bytes_after=note.num_bytes_after,
        num_frames_before=note.num_frames_before,
        num_frames_after=note.num_frames_after,
        max_time_error_seconds=note.max_time_error_seconds,
    )


def _sum(journals: Sequence[Journal]) -> Journal:
    def total(field: dataclasses.Field) -> Any:
        values = [getattr(journal, field.name) for journal in journals]
        if isinstance(field.default, tuple):
            return tuple(itertools.chain.from_iterable(values))
        return max(values, default=0.0) if field.name == "max_time_error_seconds" else sum(values)

    return Journal(**{field.name: total(field) for field in dataclasses.fields(Journal)})


def plan_shards(items: Sequence[Any]) -> list[Sequence[Any]]:
    """Divide items into shards; the division depends on their number alone."""
    size = max(MIN_VIDEOS_PER_SHARD, math.ceil(len(items) / MAX_SHARDS))
    return [items[start : start + size] for start in range(0, len(items), size)]


class ShardedWork:
    """The shards of a data directory that is being built, finished and unfinished."""

    def __init__(self, data_dir: Path, items: Sequence[Any], facts: Iterable[str]):
        """Continue the work of an earlier run with the same facts, or begin.

        Args:
          data_dir: the data directory that is being built.
          items: objects with a `video_id` each, in the order of the corpus.
          facts: everything else that the bytes depend on.

        Raises:
          UserError: the folder has finished shards of other videos or options.
        """
        self._data_dir = data_dir
        self.work_dir = data_dir.with_name(f"{data_dir.name}.ingest")
        self.work_dir.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.work_dir)
        self.shards = plan_shards(items)
        # Journals of another version cannot be continued.
        fields = (*dataclasses.fields(Journal), *dataclasses.fields(FrameIndex))
        lines = [FORMAT_VERSION, *(field.name for field in fields), *facts]
        digest = hashlib.sha256("\0".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
        plan = self.work_dir / "plan.json"
        text = json.dumps({"digest": digest, "num_shards": len(self.shards)})
        if plan.is_file() and plan.read_text() != text and any(self.work_dir.glob("shard-*.json")):
            raise UserError(
                f"{data_dir.parent} holds an unfinished ingest of other videos, with other options or "
                "other versions of libraries; give those again to continue, or remove it to start over"
            )
        write_whole(plan, text)
        self._has_places = any(data_dir.rglob("*.array_record*"))  # killed in `finish`: outcomes are final

    def is_finished(self, number: int) -> bool:
        """Tell whether a shard is complete; one with failures that may pass is made again."""
        if not self._journal_path(number).is_file():
            return False
        return self._has_places or not self.journal(number).num_that_may_pass

    def unfinished(self) -> list[int]:
        """Return the numbers of the shards to make."""
        return [number for number in range(len(self.shards)) if not self.is_finished(number)]

    def journal(self, number: int) -> Journal:
        """Return the journal of a finished shard."""
        facts = json.loads(self._journal_path(number).read_text(encoding="utf-8"))
        facts["video_ids"], facts["digests"] = tuple(facts["video_ids"]), tuple(facts["digests"])
        facts["unreadable"] = tuple((video_id, reason) for video_id, reason in facts["unreadable"])
        return Journal(**facts)

    def write(self, number: int, outcomes: Iterator[CorpusEntry | Failure], on_outcome: OnOutcome) -> None:
        """Write one shard from the next outcomes, one for each of its videos."""
        build_shard(self.work_dir, number, self.shards[number], outcomes, on_outcome)

    def finish(self) -> Journal:
        """Move the shards to their final names and write the metadata; safe to repeat after a kill."""
        journals = [self.journal(number) for number in range(len(self.shards))]
        filled = [number for number, journal in enumerate(journals) if journal.video_ids]
        for place, number in enumerate(filled):
            final = shard_path(self._data_dir, place, len(filled))
            final.parent.mkdir(parents=True, exist_ok=True)
            if self._shard_path(number).is_file():
                self._shard_path(number).replace(final)
        total = _sum(journals)
        lengths = [len(journals[number].video_ids) for number in filled]
        write_metadata(
            self._data_dir, total.video_ids, lengths, total.num_record_bytes, digests=total.digests
        )
        return total

    def _journal_path(self, number: int) -> Path:
        return self.work_dir / f"{shard_name(number)}.json"

    def _shard_path(self, number: int) -> Path:
        return self.work_dir / f"{shard_name(number)}.array_record"


def shard_name(number: int) -> str:
    """Return the temporary name of a shard, without suffix."""
    return f"shard-{number:05d}"


def build_shard(
    work_dir: Path,
    number: int,
    items: Sequence[Any],
    outcomes: Iterator[CorpusEntry | Failure],
    on_outcome: OnOutcome = lambda item, outcome: None,
) -> None:
    """Write a shard and then its journal: the same bytes for the same videos, on any machine.

    Args:
      work_dir: folder to write to.
      number: number of the shard.
      items: the items of the shard.
      outcomes: an iterator from which the outcome of each item is taken, in order.
      on_outcome: called for each item.
    """
    encoder = RecordEncoder(work_dir)
    journals: list[Journal] = []

    def records() -> Iterator[bytes]:
        for item, outcome in zip(items, itertools.islice(outcomes, len(items)), strict=True):
            on_outcome(item, outcome)
            journals.append(_journal_of(item.video_id, outcome))
            if isinstance(outcome, CorpusEntry):
                yield encoder.encode(outcome)

    num_bytes = write_shard(work_dir / f"{shard_name(number)}.array_record", records())
    journal = dataclasses.replace(_sum(journals), num_record_bytes=num_bytes)
    text = json.dumps(dataclasses.asdict(journal), ensure_ascii=False)
    write_whole(work_dir / f"{shard_name(number)}.json", text)
