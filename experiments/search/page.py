"""The page of a search: for each text the videos that were found, with frames of their best moments."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from data_pipelines.terminal_text import printable
from experiments.reports.cards import Card, found_card
from experiments.reports.page import jpeg_data_uri, write_page
from experiments.reports.words import clip_times
from experiments.search.index import Index
from experiments.search.ranking import Hit, Ranked

_NUM_MOMENTS = 4
"""Number of frames of each video."""
_NUM_UNREADABLE = 200
"""Largest number of unreadable files that are named."""


def write_search_page(path: Path, index: Index, ranked: Ranked, *, cost: str) -> None:
    """Write the page; every name and text on it can be shown and written as UTF-8."""
    unreadable = [(printable(name), printable(reason)) for name, reason in index.unreadable.items()]
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
                [hit_card(index, hit) for hit in ranking.hits],
            )
            for ranking in ranked.rankings
        ],
        unreadable=unreadable[:_NUM_UNREADABLE],
        num_unreadable=len(unreadable),
        when_tried_again=index.when_tried_again,
    )


def hit_card(index: Index, hit: Hit) -> Card:
    """Return the card of a video that was found."""
    times = clip_times(hit.clip_seconds)
    card = found_card(printable(hit.name), hit.probability, hit.clip_probabilities, times)
    pictures = [jpeg_data_uri(picture) for picture in index.store.pictures(hit.content)]
    return card.with_pictures(pictures, most=_NUM_MOMENTS)
