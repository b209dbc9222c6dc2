"""`clipbert search`: finds the videos of a folder that texts describe, and the moments where they do."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_format
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError
from data_pipelines.printable import printable
from experiments.option_checks import MAX_CLIPS, check_out_file, check_range
from experiments.text_checks import check_utf8

if TYPE_CHECKING:
    from experiments.search.index import Index
    from experiments.search.ranking import Hit, Ranked

_DEFAULT_PAGE = Path("clipbert-search.html")
_NUM_NAMED = 10
"""Files that could not be read which are named in the terminal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Find videos in a folder by text, with a model of retrieval or pretraining.

    The first search encodes every video and keeps the result in an index; later ones encode only what is new
    in the folder, and score only texts that were not asked before. Subfolders are searched too; hidden files,
    and links to folders, are left out. A file is encoded once, which decodes it from start to end and holds
    it in memory.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`, or a model."""
    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of videos, images and GIFs."""
    texts: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT [TEXT ...]")]
    """What to look for, each text in quotes."""
    top: int = 10
    """Videos that are shown for each text."""
    num_clips: int = 8
    """Clips of each video, spread over all of it; another number makes another index."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint; by default the best on validation if there was any, else the newest."""
    index: Path | None = None
    """Folder of the index; by default .clipbert_index in DIR."""
    out: Path | None = None
    """HTML page with frames of what was found; ./clipbert-search.html by default, none with --json."""
    json: bool = False
    """Print JSON instead of a table."""
    num_workers: int | None = None
    """Processes that decode; by default as many as there are cores."""
    worker_memory_gib: float = 4.0
    """Memory of each, which must hold a whole file."""
    batch_size: int = 8
    """Videos that are encoded at once; changes the speed only."""
    retry: bool = False
    """Try files again that could not be read, though they have not changed."""

    def run(self) -> None:
        """Index, rank, print, write the page.

        Raises:
          UserError: no such run or folder, a model that does not match texts, an empty text.
        """
        out = self._checked_out()
        from experiments.search.index import Index
        from experiments.search.model import SearchModel
        from experiments.search.ranking import rank

        start = time.perf_counter()
        model = SearchModel(self.run_dir, step=self.step)
        with contextlib.redirect_stdout(sys.stderr):  # the output is the result alone
            index = Index.open_or_update(model, self.folder, self._options(), log=_say)
            index_seconds = time.perf_counter() - start - model.load_seconds
            for line in index_lines(index):
                _say(line)
            ranked = rank(index, model, self.texts, top=self.top)
        cost = cost_line(index, ranked, index_seconds)
        if self.json:
            print(json_format.dumps(as_json(index, ranked, index_seconds), indent=2))
        else:
            print("\n".join([*table(ranked), cost]))
        if out is not None:
            from experiments.search.page import write_search_page

            write_search_page(out, index, ranked, cost=cost)
            _say(f"page: {printable(str(out))}")

    def _checked_out(self) -> Path | None:
        check_range("--top", self.top, 1)
        check_range("--num-clips", self.num_clips, 1, MAX_CLIPS)
        check_range("--batch-size", self.batch_size, 1)
        check_range("--worker-memory-gib", self.worker_memory_gib, 0.5)
        if self.num_workers is not None:
            check_range("--num-workers", self.num_workers, 0)
        check_utf8(self.texts)
        if not all(text.strip() for text in self.texts):
            raise UserError("a text to search for must not be empty")
        out = self.out or (None if self.json else _DEFAULT_PAGE)
        if out is not None:
            check_out_file(out, (".html", ".htm"))
        return out

    def _options(self) -> Any:
        from data_pipelines.decoding_speed import num_usable_cores
        from experiments.search.index import IndexOptions

        return IndexOptions(
            place=self.index,
            num_clips=self.num_clips,
            num_workers=num_usable_cores() if self.num_workers is None else self.num_workers,
            worker_memory_gib=self.worker_memory_gib,
            batch_size=self.batch_size,
            retry=self.retry,
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def index_lines(index: Index) -> Iterator[str]:
    """Yield what the update has done, and what cannot be read."""
    changes, unreadable = index.changes, index.unreadable
    counts = {
        "encoded": changes.num_encoded,
        "known under another name or time": changes.num_same,
        "gone": changes.num_gone,
    }
    done = "".join(f", {count:,} {what}" for what, count in counts.items() if count) or ", nothing new"
    yield f"index: {len(index.entries):,} videos{done} ({printable(str(index.root))})"
    if index.num_linked_folders:
        yield f"{index.num_linked_folders:,} link(s) to folders are not followed: search what they lead to"
    if unreadable:
        yield f"{len(unreadable):,} file(s) cannot be read ({index.when_tried_again}):"
        for name in list(unreadable)[:_NUM_NAMED]:
            yield f"  {printable(name)}: {printable(unreadable[name])}"
        if len(unreadable) > _NUM_NAMED:
            yield f"  and {len(unreadable) - _NUM_NAMED:,} more, which the page and --json name"


def table(ranked: Ranked) -> Iterator[str]:
    """Yield lines for each text: rank, probability, best moment, file."""
    for ranking in ranked.rankings:
        yield printable(ranking.text)
        yield from (f"  note: {printable(note)}" for note in ranking.notes)
        width = max((len(hit.moment) for hit in ranking.hits), default=0)
        for number, hit in enumerate(ranking.hits, 1):
            yield f"{number:4}  {hit.probability:6.1%}  {hit.moment:>{width}}  {printable(hit.name)}"


def cost_line(index: Index, ranked: Ranked, index_seconds: float) -> str:
    """Return what was looked at and scored, and how long it took, without loading the model."""
    num_texts, num_clips = len(ranked.rankings), index.options.num_clips
    num_pairs = ranked.num_scored * num_clips
    others = {
        "known": (ranked.num_contents * num_texts - ranked.num_scored) * num_clips,
        "of copies": (ranked.num_videos - ranked.num_contents) * num_texts * num_clips,
    }
    rest = "".join(f", {count:,} {what}" for what, count in others.items() if count)
    return (
        f"{ranked.num_videos:,} videos x {num_texts} text(s) x {num_clips} clips: {num_pairs:,} pairs of a "
        f"clip and text scored in {ranked.seconds:.2f} s{_rate(ranked, num_pairs)}{rest}; index "
        f"{index_seconds:.2f} s" + (f"; loading {ranked.load_seconds:.2f} s" if ranked.load_seconds else "")
    )


def _rate(ranked: Ranked, num_pairs: int) -> str:
    if not num_pairs:
        return ""
    return " with compilation" if ranked.is_first else f" ({num_pairs / ranked.seconds:,.0f} a second)"


def as_json(index: Index, ranked: Ranked, index_seconds: float) -> dict[str, Any]:
    """Return the result as JSON values."""
    facts = index.facts
    return {
        "run": facts.run,
        "step": facts.step,
        "task": facts.task,
        "consensus": facts.consensus,
        "num_clips": index.options.num_clips,
        "folder": str(index.folder),
        "index": str(index.root),
        "num_videos": ranked.num_videos,
        "texts": [
            {
                "text": ranking.text,
                "notes": list(ranking.notes),
                "videos": [_hit_json(number, hit) for number, hit in enumerate(ranking.hits, 1)],
            }
            for ranking in ranked.rankings
        ],
        "unreadable": [{"video": name, "reason": reason} for name, reason in index.unreadable.items()],
        "changes": dataclasses.asdict(index.changes),
        "cost": {
            "num_scored": ranked.num_scored,
            "seconds": round(ranked.seconds, 3),
            "is_with_compilation": ranked.is_first and ranked.num_scored > 0,
            "load_seconds": round(ranked.load_seconds, 3),
            "index_seconds": round(index_seconds, 3),
        },
    }


def _hit_json(number: int, hit: Hit) -> dict[str, Any]:
    return {
        "rank": number,
        "video": hit.name,
        "probability": hit.probability,
        "clip_probabilities": hit.clip_probabilities,
        "best_clip": hit.best_clip,
        "best_clip_seconds": hit.clip_seconds[hit.best_clip],
        "clip_seconds": hit.clip_seconds,
    }
