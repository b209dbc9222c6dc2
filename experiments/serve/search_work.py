"""Searches: the job in the thread of the model, once the index is ready.

The page and the API show the same values.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from data_pipelines.terminal_text import printable
from experiments.reports.cards import Card
from experiments.search.index import Index
from experiments.search.lines import as_json, cost_line
from experiments.search.page import hit_card
from experiments.search.ranking import Hit, Ranked, Ranking
from experiments.serve.ask_work import check_words
from experiments.serve.forms import Form
from experiments.serve.index_keeper import IndexKeeper
from experiments.serve.jobs import Job
from experiments.serve.library import LEADS_OUT, Library, id_of
from experiments.serve.limits import MAX_SEARCH_SECONDS, MAX_TOP
from experiments.serve.refusal import RequestRefused
from experiments.serve.site import Site
from experiments.serve.uploads import KnownVideo

DEFAULT_TOP = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """Result of a search."""

    json: dict[str, Any]
    """The values of `clipbert search --json`, without the paths of the folder and the index."""
    texts: list[tuple[str, list[str], list[tuple[KnownVideo, Card]]]]
    """Each text with remarks on it and the videos found."""
    cost: str
    num_videos: int


def keeper_of(site: Site) -> IndexKeeper:
    """Return the keeper of the index.

    Raises:
      RequestRefused: this server does not search.
    """
    if site.keeper is None:
        why = (
            "it was started without --videos"
            if site.is_matching
            else f"its model was trained for {site.run.experiment.task_name}"
        )
        raise RequestRefused(404, f"This server does not search: {why}.")
    return site.keeper


def start_search(site: Site, form: Form) -> Job:
    """Return the job of a search, which waits for an update of the index and then for the model.

    Raises:
      RequestRefused: there is no text, or too many searches wait.
    """
    keeper = keeper_of(site)
    if not any(form.texts):
        raise RequestRefused(422, "Write what to search for.")
    check_words(site, form.texts)
    top = form.number("top", DEFAULT_TOP, MAX_TOP)
    job = Job("search", lambda job: _search(site, job, top), asked=form, seconds=MAX_SEARCH_SECONDS)
    site.workroom.admit(job)
    try:
        keeper.enqueue_when_ready(job)
    except RequestRefused as problem:
        job.fail(problem)
        raise
    return job


def _search(site: Site, job: Job, top: int) -> Found:
    """Search; the job has the index for itself until it ends."""

    def on_progress(num_videos: int) -> None:
        job.check()
        job.line = f"The model is working: {num_videos:,} videos scored."

    keeper = keeper_of(site)
    site.library.refresh(max_age=0.0)  # as new as the index
    # The index holds links that lead out of the folder, the library does not.
    most = top + len(site.library.problems)
    ranked, index = keeper.rank(job.asked.texts, top=most, on_progress=on_progress)
    ranked = dataclasses.replace(
        ranked, rankings=tuple(_without_links(ranking, site.library, top) for ranking in ranked.rankings)
    )
    cards = [
        (
            ranking.text,
            [printable(note) for note in ranking.notes],
            [(_video(site, hit), hit_card(index, hit)) for hit in ranking.hits],
        )
        for ranking in ranked.rankings
    ]
    return Found(
        json=_json(index, ranked, site, keeper),
        texts=cards,
        cost=cost_line(index, ranked, keeper.update_seconds),
        num_videos=ranked.num_videos,
    )


def _without_links(ranking: Ranking, library: Library, top: int) -> Ranking:
    hits = [hit for hit in ranking.hits if library.named(hit.name) is not None]
    return dataclasses.replace(ranking, hits=tuple(hits[:top]))


def _video(site: Site, hit: Hit) -> KnownVideo:
    video = site.library.named(hit.name)
    assert video is not None, "others were left out"
    return video


def _json(index: Index, ranked: Ranked, site: Site, keeper: IndexKeeper) -> dict[str, Any]:
    values = as_json(index, ranked, keeper.update_seconds)
    for text in values["texts"]:
        for video in text["videos"]:
            video["video_id"] = id_of(video["video"])
    unreadable = [
        {"video": name, "reason": reason}
        for name, reason in keeper.unreadable.items()
        if site.library.problems.get(name) != LEADS_OUT
    ]
    shown = {name: value for name, value in values.items() if name not in ("folder", "index")}
    return shown | {"run": site.model_name, "unreadable": unreadable}
