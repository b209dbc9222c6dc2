"""Asks a trained model about one video, for `clipbert predict`, `probe` and `serve`.

Answers are JSON values, so that a command can print them and a server send them. `clipbert_jax.prediction`
computes them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.errors import UserError
from clipbert_jax.prediction import (
    ClipPredictions,
    Entry,
    answer_entries,
    choice_entry,
    count_entries,
    match_entries,
    predict_clips,
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
        for entry in _entries(run, frames, texts, options)
    ]
    if run.experiment.task.answer_form == "match":
        entries.sort(key=lambda entry: -entry["probability"])
    return VideoAnswers(clip_seconds=spans, texts=tuple(entries))


def _entries(
    run: Run, frames: UInt8[np.ndarray, "k t h w 3"], texts: Sequence[str], options: Sequence[str]
) -> list[Entry]:
    """Return the answer about each text, in order."""
    task = run.experiment.task

    def predict(ids: Int[np.ndarray, "n l"], mask: Bool[np.ndarray, "n l"]) -> ClipPredictions:
        return predict_clips(run.scorer, task, frames, ids, mask, num_answers=len(run.answers))

    if task.answer_form == "choice":
        return [
            choice_entry(predict(*run.encode_texts(_with_options(text, options))), text, options)
            for text in texts
        ]
    ids, mask = run.encode_texts(texts)
    found = predict(ids, mask)
    if task.answer_form == "answers":
        return answer_entries(found, texts, run.answers)
    if task.answer_form == "count":
        return count_entries(found, texts, task, mask)
    return match_entries(found, texts)
