"""`clipbert predict`: one video file and some texts -> probabilities, and which clip says so."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from pathlib import Path

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation import MatchTask
from clipbert_jax.prediction import match_texts
from clipbert_jax.training.checkpoint import WhichStep
from data_pipelines.clips import sample_video
from data_pipelines.probe import probe
from experiments.option_checks import MAX_CLIPS, check_range
from experiments.progress import say
from experiments.runs import Run, load_run


def predict(
    run_dir: Path,
    video: Path,
    texts: Sequence[str],
    *,
    num_clips: int = 8,
    step: WhichStep = None,
    json: bool = False,
) -> None:
    """Print how probably each text describes the video, most probable first.

    Raises:
      UserError: no such run or video, a video that cannot be decoded, an empty text.
    """
    check_range("--num-clips", num_clips, 1, MAX_CLIPS)
    if not texts or not all(text.strip() for text in texts):
        raise UserError('--texts needs one or more texts that are not empty, such as --texts "a man cooks"')
    if not video.is_file():
        what = "is a directory" if video.is_dir() else "does not exist"
        raise UserError(f"{video} {what}: give the path of a video file, after that of the run")
    readable = probe(video)
    run = load_run(run_dir, step=step)
    frames, times = sample_video(
        readable,
        run.experiment.data,
        num_clips=[num_clips],
        sampling="uniform",
    )
    if not isinstance(run.experiment.task, MatchTask):
        raise UserError(
            f"{run_dir} is a model of {run.experiment.task_name}: predict needs one that was trained to "
            "match texts, by retrieval or pretraining"
        )
    for note in _notes(run, texts):
        say(note, stream=sys.stderr)
    ids, mask = run.encode_texts(texts)
    matches = match_texts(run.scorer, run.experiment.task, frames, list(texts), ids, mask)
    matches = sorted(matches, key=lambda match: -match.probability)
    spans = [(float(clip[0]), float(clip[-1])) for clip in times]
    if json:
        answer = [{**vars(match), "best_clip_seconds": spans[match.best_clip]} for match in matches]
        print(json_format.dumps({"video": str(video), "clip_seconds": spans, "texts": answer}, indent=2))
        return
    say(f"{video}: {num_clips} clip(s), {run.experiment.task.consensus} over clips")
    for match in matches:
        start, end = spans[match.best_clip]
        when = f"{start:.1f} s" if start == end else f"{start:.1f}-{end:.1f} s"
        say(
            f"{match.probability:7.1%}  {match.text}   "
            f"(clip {match.best_clip + 1} at {when} says {match.clip_probabilities[match.best_clip]:.1%})"
        )


def _notes(run: Run, texts: Sequence[str]) -> list[str]:
    """Return what the model does not see of the texts as it was meant."""
    length = run.experiment.data.max_text_length
    cut = [text for text in texts if run.tokenizer.note_on_length([text], length)]
    notes = [f"the model reads {length} tokens, and not the end of: {text}" for text in cut]
    if unknown := run.tokenizer.unknown_words(texts):
        notes.append(f"the model has never seen: {', '.join(unknown)}")
    return notes
