"""Samples of a predictions file for the report of a run: some right ones and some wrong ones.

The task decides the form of a line in a predictions file (`experiments/evaluators`); here every form becomes
a `Sample`.
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
from experiments.reports.cards import Card, Choice, clip_says, percent

_MAX_CLIPS = 16
"""Largest number of clips to show; of several files, the one with the most clips up to this is shown."""

_NUM_ANSWERS = 5
_NUM_VIDEOS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One question or caption."""

    text: str
    is_right: bool
    outcome: str
    """The model's answer, and the right one."""
    cards: Sequence[Card]
    """The videos: several that were ranked, or the one that was asked about. Headings are video ids."""
    clip_note: str
    """Meaning of the columns of the clips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of one predictions file."""

    path: Path
    split: str
    num_clips: int
    right: Sequence[Sample]
    wrong: Sequence[Sample]
    num_right: int
    num_wrong: int


def read_samples(workdir: Path, *, num_each: int) -> Samples | None:
    """Return some right and some wrong predictions of a run, always the same; None without predictions."""
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
        # Reservoir sampling: each has the same chance to be kept, however many there will be.
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
    """Return the file to show, its split (and task, if it is another) and its number of clips."""
    pattern = re.compile(r"predictions-(.+)-(\d+)-clips\.jsonl")
    matches = [(path, pattern.fullmatch(path.name)) for path in sorted(workdir.glob("predictions-*.jsonl"))]
    found = [(path, match[1], int(match[2])) for path, match in matches if match]
    shown = [one for one in found if one[2] <= _MAX_CLIPS] or found
    return max(shown, key=lambda one: (one[1] == "test", one[2]), default=None)


def sample_of(line: Mapping[str, Any]) -> Sample | None:
    """Return a line of a predictions file as a sample; None if nothing is asked, or the form is not known."""
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
        cards=[
            _matched(video, is_right=video["video_id"] == line["video_id"])
            for video in line["videos"][:_NUM_VIDEOS]
        ],
        clip_note="the probability of a match from that clip alone",
    )


def _choice(line: Mapping[str, Any]) -> Sample:
    options, right, chosen = line["options"], line["answer_index"], line["predicted_index"]
    by_clip = [_softmax(logits) for logits in zip(*line["clip_logits"], strict=True)]
    choices = tuple(
        Choice(label=option, share=share, is_chosen=place == chosen, is_right=place == right)
        for place, (option, share) in enumerate(zip(options, _softmax(line["logits"]), strict=True))
    )
    return Sample(
        text=line["question"],
        is_right=line["is_right"],
        outcome=_outcome(options[chosen], options[right]),
        cards=[
            _card(
                line,
                says=[options[shares.index(max(shares))] for shares in by_clip],
                shares=[shares[chosen] for shares in by_clip],
                choices=choices,
            )
        ],
        clip_note=f"the probability of “{options[chosen]}” from that clip alone",
    )


def _open_answer(line: Mapping[str, Any]) -> Sample | None:
    scores = line.get("answer_scores", {line["answer"]: 1.0} if "answer" in line else {})
    if not scores:
        return None
    predicted = line["predicted"][0]["answer"]
    choices = tuple(
        Choice(
            label=one["answer"],
            share=one["probability"],
            is_chosen=not place,
            is_right=scores.get(one["answer"], 0.0) > 0,
        )
        for place, one in enumerate(line["predicted"][:_NUM_ANSWERS])
    )
    return Sample(
        text=line["question"],
        is_right=scores.get(predicted, 0.0) > 0,
        outcome=_outcome(predicted, " or ".join(scores)),
        cards=[
            _card(
                line,
                says=[clip["answer"] for clip in line["clips"]],
                shares=[clip["probability_of_prediction"] for clip in line["clips"]],
                choices=choices,
            )
        ],
        clip_note=f"the probability of “{predicted}” from that clip alone",
    )


def _count(line: Mapping[str, Any]) -> Sample:
    counts = line["clip_counts"]
    highest = max([line["count"], line["predicted"], *counts, 1])
    return Sample(
        text=line["question"],
        is_right=line["predicted"] == line["count"],
        outcome=_outcome(f"{line['predicted']} ({line['predicted_unrounded']:.2f})", str(line["count"])),
        cards=[
            _card(
                line,
                says=[f"{count:.1f}" for count in counts],
                shares=[min(max(count / highest, 0.0), 1.0) for count in counts],
            )
        ],
        clip_note="the count from that clip alone",
    )


def _hidden_words(line: Mapping[str, Any]) -> Sample | None:
    if not line["hidden"]:
        return None
    return Sample(
        text=line["text"],
        is_right=line["hidden"] == line["guessed"],
        outcome=_outcome(" ".join(line["guessed"]), " ".join(line["hidden"])),
        cards=[_matched(line)],
        clip_note="the probability that the caption matches, from that clip alone",
    )


def _card(
    line: Mapping[str, Any],
    *,
    says: Sequence[str],
    shares: Sequence[float],
    figure: str = "",
    choices: tuple[Choice, ...] = (),
    is_right: bool = False,
) -> Card:
    return Card(
        heading=line["video_id"],
        figure=figure,
        clips=clip_says([f"clip {number}" for number in range(1, len(shares) + 1)], says, shares),
        choices=choices,
        is_right=is_right,
    )


def _matched(line: Mapping[str, Any], *, is_right: bool = False) -> Card:
    shares = [_sigmoid(logit) for logit in line["clip_match_logits"]]
    figure = percent(_sigmoid(line["match_logit"]))
    return _card(line, says=[*map(percent, shares)], shares=shares, figure=figure, is_right=is_right)


def _outcome(predicted: str, right: str) -> str:
    return f"answered {predicted}" if predicted == right else f"answered {predicted}; right is {right}"


def _sigmoid(logit: float) -> float:
    return 0.5 * (1 + math.tanh(0.5 * logit))


def _softmax(logits: Iterable[float]) -> list[float]:
    values = list(logits)
    weights = [math.exp(value - max(values)) for value in values]
    return [weight / sum(weights) for weight in weights]
