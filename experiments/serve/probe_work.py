"""Probes: the job in the thread of the model, which writes the page of `clipbert probe` to a file."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from experiments.probe.probe_page import write_probe_page
from experiments.probe.probe_video import DISPLAY_SIZE, make_page, probe_facts
from experiments.serve.forms import Form
from experiments.serve.jobs import Job
from experiments.serve.refusal import RequestRefused
from experiments.serve.site import Site
from experiments.serve.uploads import KnownVideo

CLIPS = (1, 2, 4, 8, 16)
DEFAULT_CLIPS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probed:
    """The page of a probe."""

    path: Path
    title: str


def probe_job(site: Site, form: Form, video: KnownVideo) -> Job:
    """Return the job of a probe.

    Raises:
      RequestRefused: there are several texts, or the number of clips is out of range.
    """
    if len(form.texts) > 1:
        raise RequestRefused(422, "A probe takes one text: write a single line.")
    num_clips = form.number("num_clips", DEFAULT_CLIPS, CLIPS[-1])

    def work(job: Job) -> Probed:
        num_scored = 0

        def on_progress(num: int) -> None:
            nonlocal num_scored
            job.check()
            num_scored += num
            seconds = time.monotonic() - job.began
            job.line = f"Probing the model: {num_scored:,} clips scored in {seconds:.0f} s."

        job.line = f"Decoding {video.name}."
        clips = site.clips_of(video, num_clips=num_clips, shown_size=DISPLAY_SIZE)
        page = make_page(
            site.run,
            clips,
            form.texts[0],
            options=form.options,
            answer=form.answer or None,
            facts=probe_facts(site.run, num_clips) | {"model": site.model_name, "command": "clipbert serve"},
            on_progress=on_progress,
        )
        job.line = "Writing the page."
        path = site.private / f"probe-{job.id}.html"
        write_probe_page(path, page)
        return Probed(path=path, title=f"“{form.texts[0]}” in {video.name}")

    job = Job("probe", work, asked=(form, video), video_id=video.id, seconds=site.limits.seconds)
    job.on_drop = lambda: (site.private / f"probe-{job.id}.html").unlink(missing_ok=True)
    return job
