"""The pages to ask about a video and to probe the model."""

from __future__ import annotations

import copy

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from data_pipelines.corpus.folder import VIDEO_SUFFIXES
from experiments.probe.probe_page import SCRIPTS
from experiments.reports import page as reports
from experiments.serve.ask_work import ask_job, video_of
from experiments.serve.forms import Form
from experiments.serve.jobs import Job
from experiments.serve.limits import MAX_CHARACTERS, MAX_SHOWN_VIDEOS
from experiments.serve.probe_work import CLIPS, DEFAULT_CLIPS, probe_job
from experiments.serve.refusal import RequestRefused
from experiments.serve.rendering import Pages, see
from experiments.serve.shared_pages import sentence_of, soon, submit
from experiments.serve.site import Site
from experiments.serve.uploads import KnownVideo


class QuestionPages:
    """Answers of /ask, /probe and the addresses below them."""

    def __init__(self, site: Site, pages: Pages) -> None:
        self._site, self._pages = site, pages
        self._probe_policy = _policy_of_probe()

    async def start_ask(self, request: Request) -> Response:
        """Return the form, filled from the address."""
        return await self._page("/ask", *await self._given(request), None)

    async def start_probe(self, request: Request) -> Response:
        """Return the form, filled from the address."""
        return await self._page("/probe", *await self._given(request), None)

    async def ask(self, request: Request) -> Response:
        """Take a question, and redirect to its answer."""
        job = await submit(request, self._site, ask_job)
        await soon(job)
        return see(request, f"/ask/{job.id}#result")

    async def probe(self, request: Request) -> Response:
        """Take a probe, and redirect to its page."""
        job = await submit(request, self._site, probe_job)
        await soon(job)
        return see(request, f"/probe/{job.id}")

    async def answered(self, request: Request) -> Response:
        """Return the answer, or the progress."""
        job = self._site.workroom.find(request.path_params["job"], "ask")
        form, video = job.asked
        return await self._page(
            "/ask", form, self._shown(job, video), copy.copy(job), sentence_of(self._site, job)
        )

    async def probed(self, request: Request) -> Response:
        """Return the page around a probe, or the progress."""
        job = self._site.workroom.find(request.path_params["job"], "probe")
        form, video = job.asked
        seen = copy.copy(job)  # the job may end while the page is made
        if seen.state != "done":
            return await self._page(
                "/probe", form, self._shown(job, video), seen, sentence_of(self._site, job)
            )
        return self._pages.page(
            "probed.html.jinja", here="/probe", title=seen.result.title, job=seen, form=form, video=video
        )

    async def probe_page(self, request: Request) -> Response:
        """Return the page of a probe, which may only run its own script."""
        job = self._site.workroom.find(request.path_params["job"], "probe")
        if job.state != "done":
            raise RequestRefused(404, "This probe is not done yet.")
        return FileResponse(job.result.path, media_type="text/html", headers=self._probe_policy)

    def _shown(self, job: Job, video: KnownVideo) -> KnownVideo | None:
        """Return the video of a job; None if the job failed and the video was deleted."""
        try:
            return video if job.problem is None else self._site.library.find(video.id)
        except RequestRefused:
            return None

    async def _given(self, request: Request) -> tuple[Form, KnownVideo | None]:
        """Return the form that an address describes; an unknown video counts as none."""
        given = {name: value[: 4 * MAX_CHARACTERS] for name, value in request.query_params.items()}
        form = Form(
            texts=tuple(given.get("texts", "").splitlines()),
            options=tuple(given.get("options", "").splitlines()),
            answer=given.get("answer", ""),
            video_id=given.get("video", ""),
            num_clips=given.get("num_clips", ""),
        )
        try:
            await run_in_threadpool(self._site.library.refresh)
            return form, video_of(self._site, form)
        except RequestRefused:
            return form, None

    async def _page(
        self, here: str, form: Form, video: KnownVideo | None, job: Job | None = None, sentence: str = ""
    ) -> Response:
        site = self._site
        await run_in_threadpool(site.library.refresh)
        videos, num_videos = site.library.look_for("", MAX_SHOWN_VIDEOS)
        return self._pages.page(
            "question.html.jinja",
            here=here,
            status=job.problem.status if job and job.problem else 200,
            title="Ask about a video" if here == "/ask" else "Probe where the model looks",
            form=form,
            video=video,
            job=job,
            sentence=sentence,
            videos=videos,
            num_videos=num_videos,
            num_found=num_videos,
            uploads=site.uploads.newest_first,
            name="",
            suffixes=",".join(sorted(VIDEO_SUFFIXES)),
            clips=CLIPS,
            num_clips=form.num_clips or str(DEFAULT_CLIPS),
        )


def _policy_of_probe() -> dict[str, str]:
    """Return headers for a probe page, which may only run its own script, in an origin of its own."""
    text = reports.joined(SCRIPTS)
    return {
        "content-security-policy": (
            f"default-src 'none'; script-src 'sha256-{reports.sha256_of(text)}'; img-src data:; "
            "style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'self'; base-uri 'none'; "
            "sandbox allow-scripts"
        ),
        "x-frame-options": "SAMEORIGIN",
    }
