"""Samples of predictions files: some that are right and some that are wrong, with what each clip says.

A predictions file has a line for every question or caption, of a form that its task decides
(`experiments/evaluators`); here they all become a `Sample`.
"""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.training.metrics_writer import read_json_lines

_MAX_CLIPS = 16
"""Of several files the one with the most clips, up to so many, is shown."""

_NUM_ANSWERS = 5
_NUM_VIDEOS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipScore:
    """What one clip alone says."""

    share: float
    """Length of its bar, from 0 to 1."""
    says: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownVideo:
    """A video with its clips."""

    video_id: str
    clips: Sequence[ClipScore]
    says: str = ""
    """What all clips together say of it."""
    is_right: bool | None = None
    """Whether it is the one that was looked for; None where only one was asked about."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One of the answers that were considered."""

    text: str
    share: float
    """How probable it is held, from 0 to 1."""
    is_right: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One question or caption."""

    text: str
    is_right: bool
    outcome: str
    """What was said, and what is true."""
    answers: Sequence[Answer] = ()
    videos: Sequence[ShownVideo] = ()
    clip_note: str = ""
    """What the bars of the clips mean."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """Of one predictions file."""

    path: Path
    split: str
    num_clips: int
    right: Sequence[Sample]
    wrong: Sequence[Sample]
    num_right: int
    num_wrong: int


def read_samples(workdir: Path, *, num_each: int) -> Samples | None:
    """Return some right and some wrong predictions of a run, always the same ones; None if there are none."""
    found = _predictions_file(workdir)
    if found is None:
        return None
    path, split, num_clips = found
    kept: dict[bool, list[Sample]] = {True: [], False: []}
    counts = {True: 0, False: 0}
    draw = random.Random(0)
    for sample in filter(None, map(sample_of, read_json_lines(path))):
        counts[sample.is_right] += 1
        of_kind = kept[sample.is_right]
        # Every one has the same chance to be among those that are kept, however many there will be.
        place = draw.randrange(counts[sample.is_right])
        if len(of_kind) < num_each:
            of_kind.append(sample)
        elif place < num_each:
            of_kind[place] = sample
    if not any(counts.values()):
        return None
    return Samples(
        path=path,
        split=split,
        num_clips=num_clips,
        right=kept[True],
        wrong=kept[False],
        num_right=counts[True],
        num_wrong=counts[False],
    )


def _predictions_file(workdir: Path) -> tuple[Path, str, int] | None:
    """Return the file to show, its split (with the task, if that is another) and its number of clips."""
    pattern = re.compile(r"predictions-(.+)-(\d+)-clips\.jsonl")
    matches = [(path, pattern.fullmatch(path.name)) for path in sorted(workdir.glob("predictions-*.jsonl"))]
    found = [(path, match[1], int(match[2])) for path, match in matches if match]
    shown = [one for one in found if one[2] <= _MAX_CLIPS] or found
    return max(shown, key=lambda one: (one[1] == "test", one[2]), default=None)


def sample_of(line: Mapping[str, Any]) -> Sample | None:
    """Return what a line of a predictions file says; None if nothing is asked, or its form is not known."""
    forms = {
        "rank": _ranked_videos,
        "options": _choice,
        "clips": _open_answer,
        "clip_counts": _count,
        "hidden": _hidden_words,
    }
    try:
        return next((read(line) for key, read in forms.items() if key in line), None)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None


def _ranked_videos(line: Mapping[str, Any]) -> Sample:
    rank = line["rank"]
    return Sample(
        text=line["text"],
        is_right=rank == 1,
        outcome=f"{line['video_id']}, its own video, is on rank {rank}",
        videos=[
            ShownVideo(
                video_id=video["video_id"],
                clips=[_match(logit) for logit in video["clip_match_logits"]],
                says=_percent(_sigmoid(video["match_logit"])),
                is_right=video["video_id"] == line["video_id"],
            )
            for video in line["videos"][:_NUM_VIDEOS]
        ],
        clip_note="how probable the match is to it alone",
    )


def _choice(line: Mapping[str, Any]) -> Sample:
    options, right, chosen = line["options"], line["answer_index"], line["predicted_index"]
    by_clip = [_softmax(logits) for logits in zip(*line["clip_logits"], strict=True)]
    return Sample(
        text=line["question"],
        is_right=line["is_right"],
        outcome=_outcome(options[chosen], options[right]),
        answers=[
            Answer(text=option, share=share, is_right=place == right)
            for place, (option, share) in enumerate(zip(options, _softmax(line["logits"]), strict=True))
        ],
        videos=[
            ShownVideo(
                video_id=line["video_id"],
                clips=[
                    ClipScore(share=shares[chosen], says=f"{options[shares.index(max(shares))]}")
                    for shares in by_clip
                ],
            )
        ],
        clip_note=f"how probable “{options[chosen]}” is to it alone, and what it would choose",
    )


def _open_answer(line: Mapping[str, Any]) -> Sample | None:
    scores = line.get("answer_scores", {line["answer"]: 1.0} if "answer" in line else {})
    if not scores:
        return None
    predicted = line["predicted"][0]["answer"]
    return Sample(
        text=line["question"],
        is_right=scores.get(predicted, 0.0) > 0,
        outcome=_outcome(predicted, " or ".join(scores)),
        answers=[
            Answer(text=one["answer"], share=one["probability"], is_right=scores.get(one["answer"], 0.0) > 0)
            for one in line["predicted"][:_NUM_ANSWERS]
        ],
        videos=[
            ShownVideo(
                video_id=line["video_id"],
                clips=[
                    ClipScore(share=clip["probability_of_prediction"], says=clip["answer"])
                    for clip in line["clips"]
                ],
            )
        ],
        clip_note=f"how probable “{predicted}” is to it alone, and what it would answer",
    )


def _count(line: Mapping[str, Any]) -> Sample:
    highest = max([line["count"], line["predicted"], *line["clip_counts"], 1])
    return Sample(
        text=line["question"],
        is_right=line["predicted"] == line["count"],
        outcome=_outcome(f"{line['predicted']} ({line['predicted_unrounded']:.2f})", str(line["count"])),
        videos=[
            ShownVideo(
                video_id=line["video_id"],
                clips=[
                    ClipScore(share=min(max(count / highest, 0.0), 1.0), says=f"{count:.1f}")
                    for count in line["clip_counts"]
                ],
            )
        ],
        clip_note="what it alone would count",
    )


def _hidden_words(line: Mapping[str, Any]) -> Sample | None:
    if not line["hidden"]:
        return None
    return Sample(
        text=line["text"],
        is_right=line["hidden"] == line["guessed"],
        outcome=_outcome(" ".join(line["guessed"]), " ".join(line["hidden"])),
        videos=[
            ShownVideo(
                video_id=line["video_id"],
                clips=[_match(logit) for logit in line["clip_match_logits"]],
                says=_percent(_sigmoid(line["match_logit"])),
            )
        ],
        clip_note="how probable the match with the caption is to it alone",
    )


def _outcome(predicted: str, right: str) -> str:
    return f"says {predicted}" if predicted == right else f"says {predicted}, right is {right}"


def _match(logit: float) -> ClipScore:
    share = _sigmoid(logit)
    return ClipScore(share=share, says=_percent(share))


def _sigmoid(logit: float) -> float:
    return 0.5 * (1 + math.tanh(0.5 * logit))


def _softmax(logits: Iterable[float]) -> list[float]:
    values = list(logits)
    weights = [math.exp(value - max(values)) for value in values]
    return [weight / sum(weights) for weight in weights]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
