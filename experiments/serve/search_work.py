"""What the thread of the model does for a search, when the index is ready.

Before: `index_keeper`; after: the page and the API, which show the same values.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from data_pipelines.terminal_text import printable
from experiments.reports.page import jpeg_data_uri
from experiments.search.index import Index
from experiments.search.lines import as_json, cost_line
from experiments.search.ranking import Hit, Ranked, Ranking
from experiments.serve.ask_work import check_words
from experiments.serve.cards import AnswerCard, found_card
from experiments.serve.forms import Form
from experiments.serve.index_keeper import IndexKeeper
from experiments.serve.jobs import Job
from experiments.serve.library import LEADS_OUT, Library, id_of
from experiments.serve.limits import MAX_SEARCH_SECONDS, MAX_TOP
from experiments.serve.refusal import RequestRefused
from experiments.serve.site import Site

DEFAULT_TOP = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a search has found."""

    json: dict[str, Any]
    """As `clipbert search --json` has it, without the paths of this machine."""
    texts: list[tuple[str, list[str], list[AnswerCard]]]
    """Each text with notes about it and the videos."""
    cost: str
    num_videos: int


def keeper_of(site: Site) -> IndexKeeper:
    """Return the index.

    Raises:
      RequestRefused: this server does not search.
    """
    if site.keeper is None:
        why = (
            "it was started without --videos"
            if site.is_matching
            else f"its model is one of {site.run.experiment.task_name}"
        )
        raise RequestRefused(404, f"This server does not search: {why}.")
    return site.keeper


def start_search(site: Site, form: Form) -> Job:
    """Search when the folder has been looked through once more, and the turn comes.

    Raises:
      RequestRefused: there is nothing to search for, or too many wait.
    """
    keeper = keeper_of(site)
    if not any(form.texts):
        raise RequestRefused(422, "Write what to look for.")
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
    """Search; the index is lent to the job, so that all that is taken from it belongs together."""
    keeper = keeper_of(site)
    site.library.refresh(max_age=0.0)  # as new as the index
    # What leads out of the folder is in the index, but not in the library.
    ranked, index = keeper.rank(
        job.asked.texts, top=top + len(site.library.problems), on_progress=_SearchCount(job)
    )
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
        json=_json(index, ranked, site, keeper),
        texts=cards,
        cost=cost_line(index, ranked, keeper.update_seconds),
        num_videos=ranked.num_videos,
    )


def _without_links(ranking: Ranking, library: Library, top: int) -> Ranking:
    hits = [hit for hit in ranking.hits if library.named(hit.name) is not None]
    return dataclasses.replace(ranking, hits=tuple(hits[:top]))


def _card(site: Site, index: Index, hit: Hit, text: str) -> AnswerCard:
    video = site.library.named(hit.name)
    assert video is not None, "others were left out"
    pictures = index.store.pictures(hit.content, len(hit.clip_probabilities))
    return found_card(video, hit, text, [jpeg_data_uri(picture) for picture in pictures])


def _json(index: Index, ranked: Ranked, site: Site, keeper: IndexKeeper) -> dict[str, Any]:
    values = as_json(index, ranked, keeper.update_seconds)
    for text in values["texts"]:
        for video in text["videos"]:
            video["video_id"] = id_of(video["video"])
    unreadable = [
        {"video": name, "reason": reason}
        for name, reason in keeper.unreadable.items()
        if site.library.problems.get(name) != LEADS_OUT  # nothing is said of what lies elsewhere
    ]
    private = ("folder", "index")
    public = {name: value for name, value in values.items() if name not in private}
    return public | {"run": site.model_name, "unreadable": unreadable}


class _SearchCount:
    """Says how far a search is, and ends it where it may end."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, num_videos: int) -> None:
        self._job.check()
        self._job.line = f"The model is at work: {num_videos:,} videos have met the texts."
