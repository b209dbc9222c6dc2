"""What the thread of the model does for a question about a video; first, what may be asked at all.

Before: `forms`; after: the pages and the API, which show the same values.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from experiments.input_checks import has_words
from experiments.prediction.ask import ask_clips, model_texts, notes
from experiments.reports.page import jpeg_data_uri
from experiments.serve.cards import AnswerCard, asked_card
from experiments.serve.forms import Form
from experiments.serve.jobs import Job
from experiments.serve.refusal import RequestRefused
from experiments.serve.site import Site
from experiments.serve.uploads import KnownVideo

_SHOWN_SIZE = 160


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    """What the model says of a video."""

    json: dict[str, Any]
    """As `clipbert predict --json` has it."""
    notes: list[str]
    cards: list[AnswerCard]


def video_of(site: Site, form: Form) -> KnownVideo:
    """Return the video that a request is about.

    Raises:
      RequestRefused: it names none.
    """
    if form.upload is not None:
        return form.upload
    if not form.video_id:
        raise RequestRefused(422, "Choose a video, or upload one.")
    return site.library.find(form.video_id)


def check_question(site: Site, form: Form) -> None:
    """Refuse what the model cannot be asked.

    Raises:
      RequestRefused: no text, options that it does not take, or too few.
    """
    task, read = site.run.experiment.task_name, functools.partial(has_words, site.run.tokenizer)
    if not any(form.texts):
        what = "a text that may describe the video" if site.is_matching else "a question"
        raise RequestRefused(422, f"Write {what}.")
    check_words(site, form.texts)
    if site.is_choice and (len(form.options) < 2 or not all(map(read, form.options))):
        raise RequestRefused(422, f"This is a model of {task}: give two or more options, none of them empty.")
    if form.options and not site.is_choice:
        raise RequestRefused(422, f"Options are for models of multiple_choice, and this is one of {task}.")


def check_words(site: Site, texts: Sequence[str]) -> None:
    """Refuse texts of which the model reads nothing, such as spaces that nobody sees.

    Raises:
      RequestRefused: there is one.
    """
    if not all(has_words(site.run.tokenizer, text) for text in texts):
        raise RequestRefused(422, "A text is empty: the model reads no word in it.")


def ask_job(site: Site, form: Form, video: KnownVideo) -> Job:
    """Return a job that asks."""
    num_clips = form.number("num_clips", site.num_clips, max(site.num_clips, 16))

    def work(job: Job) -> Answered:
        job.line = f"{video.name} is being decoded."
        clips = site.clips_of(video, num_clips=num_clips, shown_size=_SHOWN_SIZE)
        job.check()
        job.line = "The model is at work."
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
            cards=[asked_card(entry, said.clip_seconds, pictures) for entry in said.texts],
        )

    return Job("ask", work, asked=(form, video), video_id=video.id, seconds=site.limits.seconds)
