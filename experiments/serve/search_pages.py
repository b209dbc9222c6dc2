"""The search page."""

from __future__ import annotations

import copy

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from experiments.serve.forms import Form, read_form
from experiments.serve.jobs import Job
from experiments.serve.limits import MAX_UNREADABLE
from experiments.serve.rendering import Pages, see
from experiments.serve.search_work import DEFAULT_TOP, keeper_of, start_search
from experiments.serve.shared_pages import sentence_of, soon
from experiments.serve.site import Site

_TOPS = (5, 10, 20, 50)


class SearchPages:
    """Answers of /, /search and /search/JOB."""

    def __init__(self, site: Site, pages: Pages) -> None:
        self._site, self._pages = site, pages

    async def start(self, request: Request) -> Response:
        """Return the empty form, or redirect to /ask if this server does not search."""
        if self._site.keeper is None:
            return RedirectResponse("/ask", status_code=303)
        return await self._page(Form(), None)

    async def search(self, request: Request) -> Response:
        """Take a form, and redirect to the results."""
        form = await read_form(request, self._site.uploads)
        if form.upload is not None:
            self._site.uploads.drop(form.upload)
        job = start_search(self._site, form)
        await soon(job)
        return see(request, f"/search/{job.id}#result")

    async def found(self, request: Request) -> Response:
        """Return the results, or the progress."""
        job = self._site.workroom.find(request.path_params["job"], "search")
        # A copy, since the job may end while the page is made.
        return await self._page(job.asked, copy.copy(job), sentence_of(self._site, job))

    async def _page(self, form: Form, job: Job | None = None, sentence: str = "") -> Response:
        site, keeper = self._site, keeper_of(self._site)
        await run_in_threadpool(site.library.refresh)
        unreadable = {**keeper.unreadable, **site.library.problems}
        return self._pages.page(
            "search.html.jinja",
            here="/",
            status=job.problem.status if job and job.problem else 200,
            title=f"Search in {site.library.folder.name or '/'}" if site.library.folder else "Search",
            index=keeper.status,
            form=form,
            tops=_TOPS,
            top=int(form.top or DEFAULT_TOP),
            job=job,
            sentence=sentence,
            unreadable=[*unreadable.items()][:MAX_UNREADABLE],
            num_unreadable=len(unreadable),
        )
