"""The card of a video on pages: an answer, frames of some clips, and what each clip says alone.

The pages of searches, of the server and of runs show it with the macro of `cards.html.jinja`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSays:
    """Answer of one clip alone, and its column."""

    when: str
    """Time or number of the clip."""
    says: str
    share: float
    """Height of its column, from 0 to 1."""
    is_best: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A possible answer."""

    label: str
    share: float
    """Its probability, from 0 to 1."""
    is_chosen: bool = False
    """Whether the model gives this answer."""
    is_right: bool = False
    """Whether it is known to be right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """A video and what a model says of it."""

    heading: str
    figure: str
    """The answer in large letters."""
    clips: tuple[ClipSays, ...]
    remark: str = ""
    """Words below the answer."""
    best_moment: str = ""
    """Time of the best clip, where the page names it."""
    moments: tuple[tuple[ClipSays, str], ...] = ()
    """Clips that are shown with a picture, a data URI, in the order of the video."""
    choices: tuple[Choice, ...] = ()
    is_right: bool = False
    """Whether it is known to be the right video."""

    def with_pictures(self, pictures: Sequence[str], *, most: int) -> Card:
        """Return the card with pictures of the best clips, given one for each clip, or none at all.

        A clip beside a better one is shown only if there is room: the two often look the same.
        """
        ranked = sorted(
            range(len(pictures)), key=lambda place: (-self.clips[place].is_best, -self.clips[place].share)
        )
        shown: list[int] = []
        for place in ranked:
            if not {place - 1, place + 1} & {*shown}:
                shown.append(place)
        shown += [place for place in ranked if place not in shown]
        moments = tuple((self.clips[place], pictures[place]) for place in sorted(shown[:most]))
        return dataclasses.replace(self, moments=moments)


def clip_says(
    times: Sequence[str], says: Sequence[str], shares: Sequence[float], best: int | None = None
) -> tuple[ClipSays, ...]:
    """Return the answers of the clips."""
    return tuple(
        ClipSays(when=when, says=said, share=share, is_best=place == best)
        for place, (when, said, share) in enumerate(zip(times, says, shares, strict=True))
    )


def found_card(
    name: str,
    probability: float,
    clip_probabilities: Sequence[float],
    times: Sequence[str],
) -> Card:
    """Return the card of a video that was found by a text."""
    best = max(range(len(times)), key=lambda place: clip_probabilities[place])
    return Card(
        heading=name,
        figure=percent(probability, digits=1),
        remark="best moment",
        best_moment=times[best],
        clips=clip_says(times, [percent(share) for share in clip_probabilities], clip_probabilities, best),
    )


def percent(share: float, *, digits: int = 0) -> str:
    """Return a share from 0 to 1 as a percentage."""
    return f"{100 * share:.{digits}f} %"
