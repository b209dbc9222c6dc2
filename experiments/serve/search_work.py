"""What the thread of the model does for a search, when the index is ready.

Before: `index_keeper`; after: the page and the API, which show the same values.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from data_pipelines.printable import printable
from experiments.reports.page import jpeg_data_uri
from experiments.search.command import as_json, cost_line
from experiments.search.index import Index
from experiments.search.ranking import Hit, Ranked, Ranking
from experiments.serve.cards import Card, found_card
from experiments.serve.forms import Form
from experiments.serve.index_keeper import IndexKeeper
from experiments.serve.jobs import Job
from experiments.serve.library import Library, id_of
from experiments.serve.limits import MAX_TOP
from experiments.serve.refusal import Refusal
from experiments.serve.site import Site

DEFAULT_TOP = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a search has found."""

    json: dict[str, Any]
    """As `clipbert search --json` has it, without the paths of this machine."""
    texts: list[tuple[str, list[str], list[Card]]]
    """Each text with notes about it and the videos."""
    cost: str
    num_videos: int


def keeper_of(site: Site) -> IndexKeeper:
    """Return the index.

    Raises:
      Refusal: this server does not search.
    """
    if site.keeper is None:
        why = (
            "it was started without --videos"
            if site.is_matching
            else f"its model is one of {site.run.experiment.task_name}"
        )
        raise Refusal(404, f"This server does not search: {why}.")
    return site.keeper


def start_search(site: Site, form: Form) -> Job:
    """Search when the folder has been looked through once more, and the turn comes.

    Raises:
      Refusal: there is nothing to search for, or too many wait.
    """
    keeper = keeper_of(site)
    if not form.texts or not all(form.texts):
        raise Refusal(422, "Write what to look for.")
    top = form.number("top", DEFAULT_TOP, MAX_TOP)
    job = site.workroom.admit(Job("search", lambda job: _search(site, keeper, form, top), asked=form))

    def on_ready(problem: Refusal | None) -> None:
        if problem is None:
            site.workroom.enqueue(job)
        else:
            job.fail(problem)

    keeper.update(on_ready)
    return job


def _search(site: Site, keeper: IndexKeeper, form: Form, top: int) -> Found:
    site.library.refresh()
    # What leads out of the folder is in the index, but not in the library.
    ranked, index = keeper.rank(form.texts, top=top + len(site.library.problems))
    ranked = dataclasses.replace(
        ranked, rankings=tuple(_without_links(ranking, site.library, top) for ranking in ranked.rankings)
    )
    cards = [
        (
            printable(ranking.text),
            [printable(note) for note in ranking.notes],
            [_card(site, index, hit, ranking.text) for hit in ranking.hits],
        )
        for ranking in ranked.rankings
    ]
    return Found(
        json=_json(index, ranked, keeper.update_seconds, site.model_name),
        texts=cards,
        cost=cost_line(index, ranked, keeper.update_seconds),
        num_videos=ranked.num_videos,
    )


def _without_links(ranking: Ranking, library: Library, top: int) -> Ranking:
    hits = [hit for hit in ranking.hits if library.named(hit.name) is not None]
    return dataclasses.replace(ranking, hits=tuple(hits[:top]))


def _card(site: Site, index: Index, hit: Hit, text: str) -> Card:
    video = site.library.named(hit.name)
    assert video is not None, "others were left out"
    pictures = index.store.pictures(hit.content, len(hit.clip_probabilities))
    return found_card(video, hit, text, [jpeg_data_uri(picture) for picture in pictures])


def _json(index: Index, ranked: Ranked, index_seconds: float, model_name: str) -> dict[str, Any]:
    values = as_json(index, ranked, index_seconds)
    for text in values["texts"]:
        for video in text["videos"]:
            video["video_id"] = id_of(video["video"])
    return {name: value for name, value in values.items() if name not in ("folder", "index")} | {
        "run": model_name
    }
