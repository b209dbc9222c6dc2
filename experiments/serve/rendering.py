"""Makes the answers: pages from templates, JSON, and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from data_pipelines.terminal_text import printable
from experiments.reports.page import templates
from experiments.serve.limits import MAX_CHARACTERS, MAX_TEXTS
from experiments.serve.refusal import RequestRefused
from experiments.serve.site import Site

_FOLDER = Path(__file__).parent
DATA_POLICY = {"content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox"}
"""Headers of answers that are not pages, in case a browser opens one as a page."""


class Pages:
    """The templates, with the values that all of them share."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._templates = templates(_FOLDER)
        self._templates.globals["printable"] = printable

    def page(self, template: str, *, here: str, status: int = 200, **values: Any) -> Response:
        """Return a page; `here` is its address in the navigation."""
        return HTMLResponse(self.text(template, here=here, **values), status_code=status)

    def text(self, template: str, *, here: str = "", **values: Any) -> str:
        """Return a filled template."""
        site = self._site
        shared = {
            "site": site,
            "here": here,
            "links": self._links(),
            "step": site.run.step,
            "task": site.run.experiment.task_name,
            "max_characters": MAX_CHARACTERS,
            "max_texts": MAX_TEXTS,
            "script": "",
            "job": None,
        }
        return self._templates.get_template(template).render(shared | values)

    def _links(self) -> list[tuple[str, str]]:
        search = [("/", "Search")] if self._site.keeper is not None else []
        return [*search, ("/ask", "Ask"), ("/probe", "Probe")]

    def refusal(self, scope: dict[str, Any], refusal: RequestRefused) -> Response:
        """Return a refusal as JSON for programs or as a page for people."""
        request = Request(scope)
        headers = {"retry-after": "5"} if refusal.status == 503 else {}
        if wants_json(request):
            return json_answer({"error": refusal.sentence}, status=refusal.status, headers=headers)
        if refusal.status == 403:  # another site must not learn what is here
            return PlainTextResponse(refusal.sentence, refusal.status, headers=DATA_POLICY)
        page = self.page(
            "sorry.html.jinja", here="", status=refusal.status, title="Sorry", sentence=refusal.sentence
        )
        page.headers.update(headers)
        return page


def wants_json(request: Request) -> bool:
    """Return whether a program or the script of our pages asks."""
    is_api = request.scope["path"].startswith(("/api/", "/jobs/"))
    return is_api or request.headers.get("accept", "").startswith("application/json")


def json_answer(values: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON, also for names in no encoding; numbers that are not finite become null."""
    text = json.dumps(_finite(values), allow_nan=False)
    return Response(
        text, status_code=status, media_type="application/json", headers=DATA_POLICY | (headers or {})
    )


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def see(request: Request, address: str) -> Response:
    """Redirect to a page after a form, so that reloading it does not send the form again."""
    if wants_json(request):
        return json_answer({"location": address})
    return RedirectResponse(address, status_code=303)
