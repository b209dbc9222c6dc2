"""The cards of answers about a video, made of the values that the API gives too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_pipelines.terminal_text import printable
from experiments.reports.cards import Card, Choice, clip_says, percent
from experiments.reports.words import clip_times

_NUM_MOMENTS = 8


def asked_card(entry: dict[str, Any], spans: Sequence[tuple[float, float]], pictures: Sequence[str]) -> Card:
    """Return the card of an entry of `prediction.ask`, with a picture of each clip."""
    figure, remark, shares, says, choices = _values(entry)
    card = Card(
        heading=printable(entry["text"]) or "(no question)",
        figure=figure,
        remark=remark,
        clips=clip_says(clip_times(spans), says, shares, entry["best_clip"]),
        choices=choices,
    )
    return card.with_pictures(pictures, most=_NUM_MOMENTS)


_Values = tuple[str, str, Sequence[float], Sequence[str], tuple[Choice, ...]]


def _values(entry: dict[str, Any]) -> _Values:
    """Return figure, remark, a share and words for each clip, and the possible answers."""
    if "options" in entry:
        return _of_options(entry)
    if "answers" in entry:
        return _of_answers(entry)
    if "count" in entry:
        counts = entry["clip_counts"]
        largest = max(map(abs, counts)) or 1.0
        remark = f"{entry['count_unrounded']:.2f} before rounding"
        says = [f"{count:.2f}" for count in counts]
        return f"{entry['count']}", remark, [abs(count) / largest for count in counts], says, ()
    shares = entry["clip_probabilities"]
    remark = "probability that the text describes the video"
    return percent(entry["probability"], digits=1), remark, shares, [*map(percent, shares)], ()


def _of_options(entry: dict[str, Any]) -> _Values:
    chosen = entry["options"][entry["choice_index"]]
    choices = tuple(
        Choice(label=printable(option["option"]), share=option["probability"], is_chosen=option is chosen)
        for option in entry["options"]
    )
    shares = chosen["clip_probabilities"]
    figure = printable(entry["choice"])
    return figure, percent(chosen["probability"], digits=1), shares, [*map(percent, shares)], choices


def _of_answers(entry: dict[str, Any]) -> _Values:
    choices = tuple(
        Choice(label=printable(found["answer"]), share=found["probability"], is_chosen=not place)
        for place, found in enumerate(entry["answers"])
    )
    shares = [clip["probability_of_answer"] for clip in entry["clips"]]
    says = [f"{printable(clip['answer'])} {percent(clip['probability'])}" for clip in entry["clips"]]
    return printable(entry["answer"]), percent(entry["probability"], digits=1), shares, says, choices
