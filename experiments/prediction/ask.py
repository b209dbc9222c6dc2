"""Asks a trained model about one video, for `clipbert predict`, `probe` and `serve`.

Answers are JSON values, so that a command can print them and a server send them. `clipbert_jax.prediction`
computes them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from clipbert_jax.errors import UserError
from clipbert_jax.prediction import (
    OptionChoice,
    answer_questions,
    choose_option,
    count_questions,
    match_texts,
)
from data_pipelines.annotations.records import MultipleChoice
from data_pipelines.clips import sample_clips
from data_pipelines.decoding.examine import examine_video
from data_pipelines.decoding.video import Video
from data_pipelines.examples import option_texts
from data_pipelines.original_sampling import OneClip
from data_pipelines.terminal_text import printable
from experiments.input_checks import check_utf8, has_words
from experiments.runs.load_run import Run

Entry = dict[str, Any]
"""Answer about one text or question, as JSON values; see `answer_entries`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoAnswers:
    """Answers of a model about one video."""

    clip_seconds: tuple[tuple[float, float], ...]
    """Times of the first and the last frame of each clip, in seconds after the first frame."""
    texts: tuple[Entry, ...]


_LARGE_BYTES = 50_000_000
"""Size of a file that takes some ten seconds or more to examine."""


def open_file(path: Path) -> Video:
    """Examine a video file; its id becomes the last part of its path.

    A note on stderr announces a large file, all of whose frames are decoded first.

    Raises:
      UnreadableVideo: the file does not decode.
      UserError: the file does not fit into memory.
      OSError: the file cannot be read.
    """
    num_bytes = path.stat().st_size
    if num_bytes >= _LARGE_BYTES:
        print(
            f"{printable(path.name)}, {num_bytes / 1e6:,.0f} MB, is decoded from start to end first, which "
            "may take minutes",
            file=sys.stderr,
            flush=True,
        )
    try:
        return dataclasses.replace(examine_video(path), video_id=path.name)
    except MemoryError as error:
        raise UserError(f"{path} does not fit into memory: make it smaller") from error


def check_question(run: Run, texts: Sequence[str], options: Sequence[str]) -> None:
    """Refuse questions that the model of a run cannot answer.

    Raises:
      UserError: a text is empty or not UTF-8; options are missing, or given to a task without options.
    """
    check_utf8([*texts, *options])
    task_name = run.experiment.task_name
    if run.experiment.task.answer_form == "choice":
        if len(options) < 2 or not all(has_words(run.tokenizer, option) for option in options):
            raise UserError(
                f"{run.workdir} is a model of {task_name}: give two or more --options that are not empty, "
                'such as --texts "what does the cat do?" --options "sleep" "jump"'
            )
        if not texts:
            raise UserError('--texts needs the question, such as --texts "what does the cat do?"')
        return
    if options:
        raise UserError(
            f"--options are for models of multiple_choice, and {run.workdir} is one of {task_name}: leave "
            "them out"
        )
    if not texts or not all(has_words(run.tokenizer, text) for text in texts):
        raise UserError('--texts needs one or more texts that are not empty, such as --texts "a man cooks"')


def model_texts(texts: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the texts as the model reads them: each option after each question, as in training."""
    return [text for question in texts for text in _with_options(question, options)] if options else [*texts]


def _with_options(question: str, options: Sequence[str]) -> list[str]:
    return option_texts(
        MultipleChoice(id="", video_id="", question=question, options=tuple(options), answer_index=0)
    )


def notes(run: Run, texts: Sequence[str]) -> list[str]:
    """Return notes about parts of the texts that the model cannot read."""
    length = run.experiment.data.max_text_length
    cut = [text for text in texts if run.tokenizer.note_on_length([text], length)]
    lines = [f"the model reads {length} tokens, and not the end of: {text}" for text in cut]
    if unknown := run.tokenizer.unknown_words(texts):
        lines.append(f"the model has never seen: {', '.join(unknown)}")
    return lines


def ask_video(
    run: Run, video: Video, texts: Sequence[str], options: Sequence[str] = (), *, num_clips: int
) -> VideoAnswers:
    """Ask the model of a run about a video, with the clips of an evaluation.

    Raises:
      UnreadableVideo: a frame does not decode.
      UserError: the frames cannot be resized.
    """
    clips = sample_clips(video, run.experiment.data, num_clips=num_clips, one_clip=one_clip_of(run))
    return ask_clips(run, clips.frames, clips.times, texts, options)


def one_clip_of(run: Run) -> OneClip:
    """Return the place of a single clip by the original's rule."""
    return run.experiment.task.one_clip


def ask_clips(
    run: Run,
    frames: UInt8[np.ndarray, "k t h w 3"],
    times: Float[np.ndarray, "k t"],
    texts: Sequence[str],
    options: Sequence[str] = (),
) -> VideoAnswers:
    """Ask the model of a run about decoded clips, given their frames and times."""
    spans = tuple((float(clip[0]), float(clip[-1])) for clip in times)
    entries = [
        {**entry, "best_clip_seconds": spans[entry["best_clip"]]}
        for entry in answer_entries(run, frames, texts, options)
    ]
    if run.experiment.task.answer_form == "match":
        entries.sort(key=lambda entry: -entry["probability"])
    return VideoAnswers(clip_seconds=spans, texts=tuple(entries))


def answer_entries(
    run: Run, frames: UInt8[np.ndarray, "k t h w 3"], texts: Sequence[str], options: Sequence[str]
) -> Iterator[Entry]:
    """Yield the answer about each text, in order; `best_clip` counts from 0.

    `change_without` is the change of the probability, or number, without each clip: it shows the clips that
    the answer rests on. It is empty for a single clip. Matching: `probability`, `clip_probabilities`.
    Multiple choice: `choice`, `choice_index`, `options` with the same two for each. Answers: `answer`,
    `probability`, the best `answers`, and `clips`, the answers of single clips. Counting: `count`,
    `count_unrounded`, `clip_counts`.
    """
    task = run.experiment.task
    if task.answer_form == "choice":
        for question in texts:
            encoded = run.encode_texts(_with_options(question, options))
            yield _choice_entry(question, options, choose_option(run.scorer, task, frames, *encoded))
        return
    arguments = (run.scorer, task, frames, [*texts], *run.encode_texts(texts))
    if task.answer_form == "answers":
        for found in answer_questions(*arguments, run.answers):
            yield {**dataclasses.asdict(found.answers[0]), **dataclasses.asdict(found)}
    else:
        predict = count_questions if task.answer_form == "count" else match_texts
        yield from map(dataclasses.asdict, predict(*arguments))


def _choice_entry(question: str, options: Sequence[str], found: OptionChoice) -> Entry:
    return {
        "text": question,
        "choice": options[found.choice_index],
        "choice_index": found.choice_index,
        "options": [
            {
                "option": option,
                "probability": found.probabilities[place],
                "clip_probabilities": [clip[place] for clip in found.clip_probabilities],
            }
            for place, option in enumerate(options)
        ],
        "best_clip": found.best_clip,
        "change_without": found.change_without,
    }
