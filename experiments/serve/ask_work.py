"""Questions about a video: the checks before, and the job in the thread of the model.

The pages and the API show the same values.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from experiments.input_checks import has_words
from experiments.prediction.ask import ask_clips, model_texts, notes
from experiments.reports.cards import Card
from experiments.reports.page import jpeg_data_uri
from experiments.serve.cards import asked_card
from experiments.serve.forms import Form
from experiments.serve.jobs import Job
from experiments.serve.refusal import RequestRefused
from experiments.serve.site import Site
from experiments.serve.uploads import KnownVideo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    """The answers of the model about a video."""

    json: dict[str, Any]
    """The values of `clipbert predict --json`."""
    notes: list[str]
    cards: list[tuple[str, Card]]
    """Each text with its card."""


def video_of(site: Site, form: Form) -> KnownVideo:
    """Return the video that a request is about.

    Raises:
      RequestRefused: the request names no video.
    """
    if form.upload is not None:
        return form.upload
    if not form.video_id:
        raise RequestRefused(422, "Choose a video, or upload one.")
    return site.library.find(form.video_id)


def check_question(site: Site, form: Form) -> None:
    """Refuse a question that the model cannot be asked.

    Raises:
      RequestRefused: there is no text, or the options do not fit the model.
    """
    task, read = site.run.experiment.task_name, functools.partial(has_words, site.run.tokenizer)
    if not any(form.texts):
        what = "a text that may describe the video" if site.is_matching else "a question"
        raise RequestRefused(422, f"Write {what}.")
    check_words(site, form.texts)
    if site.is_choice and (len(form.options) < 2 or not all(map(read, form.options))):
        raise RequestRefused(422, f"This is a model of {task}: give at least two options, and no empty one.")
    if form.options and not site.is_choice:
        raise RequestRefused(422, f"This is a model of {task}: only models of multiple_choice take options.")


def check_words(site: Site, texts: Sequence[str]) -> None:
    """Refuse texts in which the model reads no word, such as invisible spaces.

    Raises:
      RequestRefused: there is such a text.
    """
    if not all(has_words(site.run.tokenizer, text) for text in texts):
        raise RequestRefused(422, "A text is empty: the model reads no word in it.")


def ask_job(site: Site, form: Form, video: KnownVideo) -> Job:
    """Return the job of a question."""
    num_clips = form.number("num_clips", site.num_clips, max(site.num_clips, 16))

    def work(job: Job) -> Answered:
        job.line = f"Decoding {video.name}."
        clips = site.clips_of(video, num_clips=num_clips)
        job.check()
        job.line = "The model is working."
        said = ask_clips(site.run, clips.frames, clips.times, form.texts, form.options)
        pictures = [jpeg_data_uri(frame) for frame in clips.shown[:, 0]]
        facts = {
            "run": site.model_name,
            "step": site.run.step,
            "task": site.run.experiment.task_name,
            "consensus": site.run.experiment.task.consensus,
            "num_clips": num_clips,
            "video": video.name,
            "video_id": video.id,
        }
        about = notes(site.run, model_texts(form.texts, form.options))
        return Answered(
            json=facts | dataclasses.asdict(said) | {"notes": about},
            notes=about,
            cards=[(entry["text"], asked_card(entry, said.clip_seconds, pictures)) for entry in said.texts],
        )

    return Job("ask", work, asked=(form, video), video_id=video.id, seconds=site.limits.seconds)
