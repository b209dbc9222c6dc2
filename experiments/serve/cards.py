"""What pages show of an answer: a card with figures, frames of the clips that say it most, columns of all.

Made of the values that JSON has too. Before: `ask_work` and `search_work`; after: `card.html.jinja`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from data_pipelines.terminal_text import printable
from experiments.prediction.lines import seconds
from experiments.search.ranking import Hit
from experiments.serve.uploads import KnownVideo

_NUM_FOUND_MOMENTS = 4
"""Of a video that a search found, those whose clips say it most."""
_NUM_ASKED_MOMENTS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip, and what it says alone."""

    when: str
    says: str
    share: float
    """How tall its column is, from 0 to 1."""
    is_best: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A possible answer."""

    label: str
    share: float
    is_chosen: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerCard:
    """An answer."""

    heading: str
    figure: str
    remark: str
    """What the figure is, in words."""
    clips: tuple[Clip, ...]
    moments: tuple[tuple[Clip, str], ...]
    """Clips with a picture, in the order of the video."""
    choices: tuple[Choice, ...] = ()
    video: KnownVideo | None = None
    """That was found."""
    text: str = ""
    """That a probe may be made of."""


def found_card(video: KnownVideo, hit: Hit, text: str, pictures: Sequence[str]) -> AnswerCard:
    """Return what is shown of a video that a search found; a picture of each clip, as a data URI, or none."""
    says = hit.clip_probabilities
    clips = _clips(hit.clip_seconds, says, map(percent, says), hit.best_clip)
    return AnswerCard(
        heading=video.name,
        figure=percent(hit.probability),
        remark=f"best moment {seconds(hit.clip_seconds[hit.best_clip])}",
        clips=clips,
        moments=_moments(clips, pictures, _NUM_FOUND_MOMENTS),
        video=video,
        text=text,
    )


def asked_card(
    entry: dict[str, Any], spans: Sequence[tuple[float, float]], pictures: Sequence[str]
) -> AnswerCard:
    """Return what is shown of an entry of `asking`."""
    figure, remark, shares, says, choices = _values(entry)
    clips = _clips(spans, shares, says, entry["best_clip"])
    return AnswerCard(
        heading=printable(entry["text"]) or "(no question)",
        figure=figure,
        remark=remark,
        clips=clips,
        moments=_moments(clips, pictures, _NUM_ASKED_MOMENTS),
        choices=choices,
        text=entry["text"],
    )


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
    return percent(entry["probability"]), "that it describes the video", shares, [*map(percent, shares)], ()


def _of_options(entry: dict[str, Any]) -> _Values:
    chosen = entry["options"][entry["choice_index"]]
    choices = tuple(
        Choice(label=printable(option["option"]), share=option["probability"], is_chosen=option is chosen)
        for option in entry["options"]
    )
    shares = chosen["clip_probabilities"]
    figure = printable(entry["choice"])
    return figure, percent(chosen["probability"]), shares, [*map(percent, shares)], choices


def _of_answers(entry: dict[str, Any]) -> _Values:
    choices = tuple(
        Choice(label=printable(found["answer"]), share=found["probability"], is_chosen=not place)
        for place, found in enumerate(entry["answers"])
    )
    shares = [clip["probability_of_answer"] for clip in entry["clips"]]
    says = [f"{printable(clip['answer'])} {clip['probability']:.0%}" for clip in entry["clips"]]
    return printable(entry["answer"]), percent(entry["probability"]), shares, says, choices


def _clips(
    spans: Sequence[tuple[float, float]], shares: Sequence[float], says: Any, best: int
) -> tuple[Clip, ...]:
    return tuple(
        Clip(when=seconds(span), says=said, share=share, is_best=place == best)
        for place, (span, share, said) in enumerate(zip(spans, shares, says, strict=True))
    )


def _moments(clips: Sequence[Clip], pictures: Sequence[str], most: int) -> tuple[tuple[Clip, str], ...]:
    by_share = sorted(range(len(pictures)), key=lambda place: (-clips[place].is_best, -clips[place].share))
    return tuple((clips[place], pictures[place]) for place in sorted(by_share[:most]))


def percent(share: float) -> str:
    """Return a share for people."""
    return f"{100 * share:.1f} %"
