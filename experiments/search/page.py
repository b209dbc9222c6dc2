"""The page of a search: for each text the videos that were found, with frames of their best moments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.terminal_text import printable
from experiments.reports.page import jpeg_data_uri, write_page
from experiments.search.index import Index
from experiments.search.ranking import Hit, Ranked, moments

_NUM_MOMENTS = 4
"""Of each video, those whose clips give the highest probabilities."""
_NUM_UNREADABLE = 200
"""Files that are named, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundMoment:
    """A clip of a video, and what it says."""

    when: str
    share: float
    is_best: bool
    picture: str
    """A data URI."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HitCard:
    """A video that was found, as the page shows it."""

    name: str
    share: float
    when: str
    moments: tuple[FoundMoment, ...]
    """The best ones, in the order of the video."""
    clips: tuple[tuple[str, float, bool], ...]
    """Of every clip when it is, what it says, and whether it is the best."""


def write_search_page(path: Path, index: Index, ranked: Ranked, *, cost: str) -> None:
    """Write the page.

    Raises:
      UserError: the pictures of the index are damaged.
    """
    unreadable = index.unreadable
    write_page(
        path,
        Path(__file__).with_name("search_page.html.jinja"),
        title=f"Search in {printable(index.folder.resolve().name or '/')}",
        facts=dataclasses.replace(index.facts, run=printable(index.facts.run)),
        num_clips=index.options.num_clips,
        num_videos=ranked.num_videos,
        cost=cost,
        results=[
            (
                printable(ranking.text),
                map(printable, ranking.notes),
                [_card(index, hit) for hit in ranking.hits],
            )
            for ranking in ranked.rankings
        ],
        unreadable=_printable(unreadable),
        num_unreadable=len(unreadable),
        when_tried_again=index.when_tried_again,
    )


def _printable(reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return names and reasons that can be shown, and written as UTF-8, whatever bytes they are made of."""
    return [(printable(name), printable(reason)) for name, reason in [*reasons.items()][:_NUM_UNREADABLE]]


def _card(index: Index, hit: Hit) -> HitCard:
    says, times = hit.clip_probabilities, moments(hit.clip_seconds)
    pictures = index.store.pictures(hit.content, len(says))
    # Without pictures, if they are damaged, it is shown without moments.
    best = sorted(sorted(range(len(pictures)), key=lambda clip: -says[clip])[:_NUM_MOMENTS])
    return HitCard(
        name=printable(hit.name),
        share=hit.probability,
        when=hit.moment,
        moments=tuple(
            FoundMoment(
                when=times[clip],
                share=says[clip],
                is_best=clip == hit.best_clip,
                picture=jpeg_data_uri(pictures[clip]),
            )
            for clip in best
        ),
        clips=tuple(
            (when, share, clip == hit.best_clip)
            for clip, (when, share) in enumerate(zip(times, says, strict=True))
        ),
    )
