"""What several pages use: progress of a job, lists and pictures of videos, the script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from experiments.serve.ask_work import check_question, video_of
from experiments.serve.forms import Form, read_form
from experiments.serve.jobs import Job
from experiments.serve.limits import MAX_NAME_CHARACTERS, MAX_SHOWN_VIDEOS
from experiments.serve.refusal import RequestRefused
from experiments.serve.rendering import DATA_POLICY, Pages, json_answer, see
from experiments.serve.site import Site
from experiments.serve.uploads import KnownVideo

_SOON_SECONDS = 1.0


class SharedPages:
    """Answers of /jobs, /videos, /frames and /app.js."""

    def __init__(self, site: Site, pages: Pages) -> None:
        self._site, self._pages = site, pages
        self._script = (Path(__file__).parent / "app.js").read_bytes()
        self._few = anyio.CapacityLimiter(2)

    async def job(self, request: Request) -> Response:
        """Return the progress of a job."""
        job = self._site.workroom.find(request.path_params["job"])
        return json_answer({"is_ended": job.is_ended, "sentence": sentence_of(self._site, job)})

    async def stop(self, request: Request) -> Response:
        """Stop a job."""
        job = self._site.workroom.find(request.path_params["job"])
        self._site.workroom.stop(job)
        await soon(job)
        return see(request, f"/{job.kind}/{job.id}")

    async def videos(self, request: Request) -> Response:
        """Return the part of a page that lists videos by a part of their names."""
        name = request.query_params.get("name", "")[:MAX_NAME_CHARACTERS]
        await run_in_threadpool(self._site.library.refresh)
        videos, num_found = self._site.library.look_for(name, MAX_SHOWN_VIDEOS)
        text = self._pages.text(
            "videos.html.jinja",
            videos=videos,
            num_found=num_found,
            uploads=self._site.uploads.newest_first,
            video=self._chosen(request.query_params.get("video", "")),
            name=name,
        )
        return HTMLResponse(text)

    def _chosen(self, video_id: str) -> KnownVideo | None:
        """Return the video that is already chosen, which is listed whatever its name."""
        try:
            return self._site.library.find(video_id)
        except RequestRefused:
            return None

    async def frame(self, request: Request) -> Response:
        """Return a thumbnail of a video."""
        video = self._site.library.find(request.path_params["video"])
        path, _ = self._site.library.opened(video)
        try:
            jpeg = await anyio.to_thread.run_sync(self._site.thumbnails.get, path, limiter=self._few)
        except OSError:
            jpeg = None
        if jpeg is None:
            return Response(_NO_PICTURE, media_type="image/svg+xml", headers=DATA_POLICY)
        return Response(jpeg, media_type="image/jpeg", headers=DATA_POLICY)

    async def script(self, request: Request) -> Response:
        """Return the script of our pages."""
        return Response(self._script, media_type="text/javascript", headers=DATA_POLICY)

    async def no_icon(self, request: Request) -> Response:
        """Return nothing: the icon is inside the pages."""
        return Response(status_code=204)


_NO_PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 30"><rect width="40" height="30" fill="#8886"/>'
    '<path d="M17 10.5v9l7-4.5z" fill="#8888"/></svg>'
)


async def submit(request: Request, site: Site, make: Callable[[Site, Form, KnownVideo], Job]) -> Job:
    """Take a question about a video, and let it wait for the model; a refused question loses its upload.

    Raises:
      RequestRefused: the question is not understood, or too many wait.
    """
    await run_in_threadpool(site.library.refresh)
    form = await read_form(request, site.uploads)
    try:
        check_question(site, form)
        return site.workroom.enqueue(site.workroom.admit(make(site, form, video_of(site, form))))
    except BaseException:
        if form.upload is not None:
            site.uploads.drop(form.upload)
        raise


def sentence_of(site: Site, job: Job) -> str:
    """Return the progress of a job; a search waits for the index first."""
    if job.kind == "search" and job.state == "preparing" and site.keeper and not site.keeper.status.is_ready:
        return "The search starts when the index is ready."
    return site.workroom.sentence(job)


async def soon(job: Job) -> None:
    """Wait a moment for a job, so that quick ones need no page with the progress."""
    await wait_for(job, _SOON_SECONDS)


async def wait_for(job: Job, seconds: float) -> bool:
    """Wait for a job to end, and return whether it has."""
    end = asyncio.get_running_loop().time() + seconds
    while not job.ended.is_set() and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.03)
    return job.ended.is_set()


def result_of(job: Job) -> object:
    """Return the result of a job that has ended.

    Raises:
      RequestRefused: the job failed.
    """
    if job.problem is not None:
        raise RequestRefused(job.problem.status, job.problem.sentence)
    return job.result
