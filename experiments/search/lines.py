"""The lines and JSON values that `clipbert search` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data_pipelines.terminal_text import printable

if TYPE_CHECKING:
    from experiments.search.index import Index
    from experiments.search.ranking import Hit, Ranked


_NUM_NAMED = 10
"""Largest number of unreadable files that are named in the terminal."""


def index_lines(index: Index) -> Iterator[str]:
    """Yield the result of the update, and the unreadable files."""
    changes, unreadable = index.changes, index.unreadable
    counts = {
        "encoded": changes.num_encoded,
        "known under another name or time": changes.num_same,
        "gone": changes.num_gone,
    }
    done = "".join(f", {count:,} {what}" for what, count in counts.items() if count) or ", nothing new"
    yield f"index: {len(index.entries):,} videos{done} ({printable(str(index.root))})"
    if index.num_linked_folders:
        yield f"{index.num_linked_folders:,} link(s) to folders are not followed: search these separately"
    if unreadable:
        yield f"{len(unreadable):,} file(s) cannot be read ({index.when_tried_again}):"
        for name in list(unreadable)[:_NUM_NAMED]:
            yield f"  {printable(name)}: {printable(unreadable[name])}"
        if len(unreadable) > _NUM_NAMED:
            yield f"  and {len(unreadable) - _NUM_NAMED:,} more, named on the page and with --json"


def table(ranked: Ranked) -> Iterator[str]:
    """Yield for each text lines with rank, probability, best moment and file."""
    for ranking in ranked.rankings:
        yield printable(ranking.text)
        yield from (f"  note: {printable(note)}" for note in ranking.notes)
        width = max((len(hit.moment) for hit in ranking.hits), default=0)
        for number, hit in enumerate(ranking.hits, 1):
            yield f"{number:4}  {hit.probability:6.1%}  {hit.moment:>{width}}  {printable(hit.name)}"


def cost_line(index: Index, ranked: Ranked, index_seconds: float) -> str:
    """Return the numbers of videos and scores, and the time that they took without loading the model."""
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
