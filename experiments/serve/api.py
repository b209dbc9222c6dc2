"""JSON for programs: the values of `clipbert search --json` and `clipbert predict --json`."""

from __future__ import annotations

import dataclasses
from typing import cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from experiments.serve.ask_work import Answered, ask_job
from experiments.serve.forms import read_form
from experiments.serve.jobs import Job
from experiments.serve.limits import MAX_LISTED_VIDEOS, MAX_NAME_CHARACTERS
from experiments.serve.rendering import json_answer
from experiments.serve.search_work import Found, start_search
from experiments.serve.shared_pages import result_of, submit, wait_for
from experiments.serve.site import Site


class Api:
    """Answers below /api; a request waits until its result is there."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def status(self, request: Request) -> Response:
        """Return the model, the settings and the state of the index."""
        site, keeper = self._site, self._site.keeper
        return json_answer(
            {
                "run": site.model_name,
                "step": site.run.step,
                "task": site.run.experiment.task_name,
                "num_clips": site.num_clips,
                "num_under_way": site.workroom.num_under_way,
                "index": keeper and dataclasses.asdict(keeper.status),
            }
        )

    async def videos(self, request: Request) -> Response:
        """Return the videos of the folder with their ids."""
        library = self._site.library
        await run_in_threadpool(library.refresh)
        name = request.query_params.get("name", "")[:MAX_NAME_CHARACTERS]
        videos, num_found = library.look_for(name, MAX_LISTED_VIDEOS)
        listed = [{"video_id": video.id, "video": video.name} for video in videos]
        problems = [{"video": name, "reason": reason} for name, reason in library.problems.items()]
        return json_answer({"num_videos": num_found, "videos": listed, "left_out": problems})

    async def search(self, request: Request) -> Response:
        """Search."""
        form = await read_form(request, self._site.uploads)
        if form.upload is not None:
            self._site.uploads.drop(form.upload)
        job = start_search(self._site, form)
        return json_answer(cast("Found", await self._result(request, job)).json)

    async def ask(self, request: Request) -> Response:
        """Ask about a video."""
        job = await submit(request, self._site, ask_job)
        return json_answer(cast("Answered", await self._result(request, job)).json)

    async def _result(self, request: Request, job: Job) -> object:
        """Return the result of a job; stop it if the client leaves."""
        while not await wait_for(job, 1.0):
            if await request.is_disconnected():
                self._site.workroom.stop(job)
        return result_of(job)
