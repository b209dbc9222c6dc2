"""The app: its addresses, and the server that it runs in.

A request goes through `guard` (who may ask, and how much) and `forms` (what is asked) to a job of `jobs`, in
the thread of the model. `ask_work`, `search_work` and `probe_work` are the jobs; `decoding` reads videos for
them in other processes, and `index_keeper` keeps the search index. `rendering` makes the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route, Router

from experiments.serve.api import Api
from experiments.serve.guard import App, Guard
from experiments.serve.limits import MAX_CONNECTIONS
from experiments.serve.question_pages import QuestionPages
from experiments.serve.refusal import RequestRefused
from experiments.serve.rendering import Pages
from experiments.serve.search_pages import SearchPages
from experiments.serve.shared_pages import SharedPages
from experiments.serve.site import Site


def make_app(site: Site, *, hosts: Sequence[str]) -> Guard:
    """Return the ASGI app; `hosts` are the names that a Host header may hold."""
    pages = Pages(site)
    router = Router(_routes(site, pages))
    return Guard(
        TrustedHostMiddleware(_with_refusals(router), allowed_hosts=hosts, www_redirect=False),
        limits=site.limits,
        answer=lambda scope, refusal: pages.refusal(scope, refusal),
    )


def _routes(site: Site, pages: Pages) -> list[Route]:
    search, questions = SearchPages(site, pages), QuestionPages(site, pages)
    shared, api = SharedPages(site, pages), Api(site)
    return [
        Route("/", search.start),
        Route("/search", search.search, methods=["POST"]),
        Route("/search/{job}", search.found),
        Route("/ask", questions.start_ask),
        Route("/ask", questions.ask, methods=["POST"]),
        Route("/ask/{job}", questions.answered),
        Route("/probe", questions.start_probe),
        Route("/probe", questions.probe, methods=["POST"]),
        Route("/probe/{job}", questions.probed),
        Route("/probe/{job}/page", questions.probe_page),
        Route("/jobs/{job}", shared.job),
        Route("/jobs/{job}/stop", shared.stop, methods=["POST"]),
        Route("/videos", shared.videos),
        Route("/frames/{video}.jpg", shared.frame),
        Route("/app.js", shared.script),
        Route("/favicon.ico", shared.no_icon),
        Route("/api/status", api.status),
        Route("/api/videos", api.videos),
        Route("/api/search", api.search, methods=["POST"]),
        Route("/api/ask", api.ask, methods=["POST"]),
    ]


def _with_refusals(router: Router) -> App:
    """Return the router, whose errors of HTTP become refusals like all others."""

    async def routed(scope: Any, receive: Any, send: Any) -> None:
        scope["app"] = router  # makes Starlette raise instead of answering in plain text
        try:
            await router(scope, receive, send)
        except HTTPException as error:
            sentence = (
                "There is no such page." if error.status_code == 404 else f"{error.detail.rstrip('.')}."
            )
            raise RequestRefused(error.status_code, sentence) from error

    return routed


def make_server(app: Guard, **options: Any) -> uvicorn.Server:
    """Return the server; its `run` takes the sockets to listen at."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        lifespan="off",
        ws="none",
        http="h11",
        access_log=False,  # the guard writes a line for each request
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS + 1,  # uvicorn counts the one that asks
        timeout_graceful_shutdown=2,
        **options,
    )
    return uvicorn.Server(config)
