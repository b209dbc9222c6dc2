"""Writes the page of `clipbert probe`: where a model looked, clip by clip, and what its score depends on.

The content comes as plain arrays (`views.py`) from `probe_video.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import UserError
from experiments.probe.data import DETAILS, MAX_BYTES, Detail, pack, pack_maps
from experiments.probe.timeline import NARROW_CARD, WIDE_CARD, lay_out
from experiments.probe.verdicts import digits_of, number, percent, verdict
from experiments.probe.views import ClipView, ProbePage
from experiments.reports.page import filled_in, jpeg_data_uri
from experiments.reports.words import clock

TEMPLATE = Path(__file__).with_name("probe_page.html.jinja")
SCRIPTS = tuple(Path(__file__).with_name(name) for name in ("probe_maps.js", "probe_page.js"))
_MAX_BARS = 12
"""Largest number of frames and of heads, the strongest ones."""

_NO_CHANGE = 0.02
"""Share of the score (or of 1, if the score is smaller) below which no clip counts as decisive."""


class Bar(NamedTuple):
    """A row of an ablation: what is left out, and the change of the score."""

    name: str
    change: float
    clip: int | None = None
    """Number of the clip whose picture stands beside it."""


def write_probe_page(path: Path, page: ProbePage) -> None:
    """Write the page as one file of less than `MAX_BYTES`; make its folder.

    Raises:
      UserError: the page is larger even with the least detail.
    """
    page = _printable(page)
    for detail in DETAILS:
        text = filled_in(TEMPLATE, scripts=SCRIPTS, **_values(page, detail))
        if len(text.encode()) < MAX_BYTES:
            write_whole(path, text)
            return
    raise UserError(f"a page of {len(page.clips)} clips has more than {MAX_BYTES:,} bytes: probe fewer clips")


def _printable(page: ProbePage) -> ProbePage:
    """Replace what UTF-8 cannot hold, since file names and arguments may be in any encoding."""

    def clean(text: str) -> str:
        return text.encode("utf-8", "replace").decode()

    return dataclasses.replace(
        page,
        video_name=clean(page.video_name),
        text=clean(page.text),
        question=clean(page.question),
        words=[dataclasses.replace(word, text=clean(word.text)) for word in page.words],
        notes=[clean(note) for note in page.notes],
        facts={clean(name): clean(value) for name, value in page.facts.items()},
    )


def _values(page: ProbePage, detail: Detail) -> dict[str, Any]:
    """Return the values of the template."""
    end = max([page.duration, *(float(clip.seconds.max()) for clip in page.clips)])
    times = [clock(float(clip.seconds[0]), end) for clip in page.clips]
    groups = {name: bars for name, bars in ablations(page, times).items() if bars}
    changes = [abs(bar.change) for bars in groups.values() for bar in bars if math.isfinite(bar.change)]
    largest = max(changes, default=0.0) or 1.0
    return {
        "title": f"“{page.text}” in {page.video_name}",
        "page": page,
        "notes": [*page.notes, *detail.notes],
        "length": f"{clock(page.duration, end)} long" if page.duration > 0 else "a single picture",
        "timeline": lay_out([clip.seconds.tolist() for clip in page.clips], page.duration),
        "cards": (WIDE_CARD, NARROW_CARD),
        "times": times,
        "pictures": [
            [jpeg_data_uri(frame, max_side=detail.frame_side) for frame in clip.frames] for clip in page.clips
        ],
        "says": [_says(clip) for clip in page.clips],
        "shares": _shares(page),
        "decision": _decision(page, times),
        "figures": _figures(page, times),
        "groups": groups,
        "width": lambda change: abs(change) / largest if math.isfinite(change) else 0.0,
        "verdicts": {name: verdict(found) for name, found in page.faithfulness.items()},
        "number": number,
        "signed": functools.partial(number, plus="+", digits=digits_of(largest)),
        "data": _data(page, detail, times),
    }


def ablations(page: ProbePage, times: Sequence[str]) -> dict[str, list[Bar]]:
    """Return the changes without each word and clip, and without the strongest frames and heads."""
    words = [Bar(word.text, word.change_without) for word in page.words if word.change_without is not None]
    clips = [
        Bar(f"clip {number}, {time}", clip.change_without, number - 1)
        for number, (clip, time) in enumerate(zip(page.clips, times, strict=True), 1)
        if len(page.clips) > 1
    ]
    frames = [
        Bar(f"clip {number}, frame {frame}", float(change))
        for number, clip in enumerate(page.clips, 1)
        for frame, change in enumerate(clip.frame_changes if clip.frame_changes is not None else (), 1)
    ]
    heads = [
        Bar(f"layer {layer}, head {head}", float(change))
        for layer, changes in enumerate(page.head_changes, 1)
        for head, change in enumerate(changes, 1)
    ]
    return {"Words": words, "Clips": clips, "Frames": _strongest(frames), "Heads": _strongest(heads)}


def _strongest(bars: list[Bar]) -> list[Bar]:
    return sorted(bars, key=lambda bar: -_weight(bar.change))[:_MAX_BARS]


def _weight(change: float | None) -> float:
    return abs(change) if change is not None and math.isfinite(change) else -1.0


def _heaviest(views: Sequence[Any]) -> int:
    """Return the index of the word or clip that changes the score most."""
    return max(range(len(views)), key=lambda i: _weight(views[i].change_without))


def _says(clip: ClipView) -> str:
    return number(clip.score) if clip.probability is None else percent(clip.probability)


def _shares(page: ProbePage) -> list[float]:
    """Return the length of the bar of each clip: its probability, or its place among the scores."""
    scores = [clip.score for clip in page.clips]
    low, high = min(0.0, *scores), max(0.0, *scores)
    return [
        (clip.score - low) / (high - low or 1.0) if clip.probability is None else clip.probability
        for clip in page.clips
    ]


def _decision(page: ProbePage, times: Sequence[str]) -> str:
    """Return a sentence about the clip that decided."""
    if len(page.clips) == 1:
        return "There is only one clip, so its score is the score."
    least = _NO_CHANGE * max(1.0, abs(page.score))
    heaviest = _heaviest(page.clips)
    change = page.clips[heaviest].change_without
    if not _weight(change) > least:
        return (
            f"No single clip decided: without any one of them the score changes by {number(least)} at most."
        )
    said = (
        f"Clip {heaviest + 1}, at {times[heaviest]}, decided most and {_pulls(change)}: without it the score "
        f"goes from {number(page.score)} to {number(page.score + change)}."
    )
    others = [clip.change_without for clip in page.clips if clip.change_without * change < 0]
    other = max(others, key=_weight, default=0.0)
    if _weight(other) > least:
        clip = [clip.change_without for clip in page.clips].index(other)
        said += f" Clip {clip + 1}, at {times[clip]}, {_pulls(other)} most: without it, to"
        said += f" {number(page.score + other)}."
    return said


def _pulls(change: float) -> str:
    return "pulls it up" if change < 0 else "pulls it down"


def _figures(page: ProbePage, times: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return the large numbers at the top: label, value, remark."""
    pooled = f"{page.consensus.replace('_', '-')} of {len(page.clips)} clip{'s' * (len(page.clips) > 1)}"
    if page.probability is None:
        figures = [("Score", number(page.score), pooled)]
    else:
        figures = [("Probability", percent(page.probability), f"score {number(page.score)}, {pooled}")]
    if len(page.clips) > 1:
        clip = _heaviest(page.clips)
        change = number(page.clips[clip].change_without, "+")
        figures.append(("Strongest clip", f"{clip + 1}", f"at {times[clip]}, {change} without it"))
    if any(word.change_without is not None for word in page.words):
        word = page.words[_heaviest(page.words)]
        figures.append(("Strongest word", word.text, f"{number(word.change_without or 0.0, '+')} without it"))
    if page.faithfulness:
        good = sum(found.is_faithful for found in page.faithfulness.values())
        figures.append(
            ("Faithful maps", f"{good} of {len(page.faithfulness)}", "judged by hiding what they point to")
        )
    return figures


def _data(page: ProbePage, detail: Detail, times: Sequence[str]) -> dict[str, Any]:
    """Return the data of the script."""
    num_layers, _, _, num_tokens, num_rows, num_columns = page.text_to_grid.shape
    layers = list(range(1, num_layers + 1))[-2 if detail.is_last_layers_only else None :]
    # In the last layer only the attention of [CLS] matters, since the score is read from [CLS].
    start = max(0, len(layers) - 2)
    # The page opens at the clip with the highest score, where there is something to see.
    surest = max(range(len(page.clips)), key=lambda clip: page.clips[clip].score)
    return {
        "grid": [num_rows, num_columns],
        "picture": [page.width_share, page.height_share],
        "clips": [f"clip {clip} at {time}" for clip, time in enumerate(times, 1)],
        "words": [word.text for word in page.words],
        "layers": layers,
        "numLayers": num_layers,
        "heads": pack(page.head_changes),
        "even": 1 / (num_tokens + num_rows * num_columns),
        "start": [surest, _heaviest(page.words) if num_layers > 1 else 0, start],
        "verdicts": {name: verdict(found) for name, found in page.faithfulness.items()},
        "maps": pack_maps(page, detail),
    }
