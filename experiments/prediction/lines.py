"""Lines that `clipbert predict` prints about a video, made of its JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines.terminal_text import printable

Span = tuple[float, float]


def lines(answers: dict[str, Any], consensus: str) -> Iterator[str]:
    """Yield lines about one video: its answers, or the reason why it cannot be read.

    Args:
      answers: JSON values of one video.
      consensus: number of clips and their consensus, in words.
    """
    name = printable(answers["video"])
    if "error" in answers:
        yield f"{name}: cannot be read: {printable(answers['error'])}"
        return
    yield f"{name}: {consensus}"
    for entry in answers["texts"]:
        yield from _entry_lines(entry, answers["clip_seconds"])
        if "page" in entry:
            yield f"{'':9}explained in {printable(entry['page'])}"


def _entry_lines(entry: dict[str, Any], spans: Sequence[Span]) -> Iterator[str]:
    """Yield the answer about one text, then that of each clip alone."""
    clip, text = entry["best_clip"], printable(entry["text"])
    best = f"clip {clip + 1} at {seconds(entry['best_clip_seconds'])} says"
    if "options" in entry:
        yield from _choice_lines(entry, text, best, _heaviest(entry, spans, _choice(entry)["probability"]))
    elif "answers" in entry:
        yield text
        yield from (_share(found["probability"], found["answer"]) for found in entry["answers"])
        heaviest = _heaviest(entry, spans, entry["probability"])
        yield f"{'':9}({best} {entry['clips'][clip]['probability_of_answer']:.1%}{heaviest})"
        yield _alone(f"{found['answer']} {found['probability']:.0%}" for found in entry["clips"])
    elif "count" in entry:
        yield f"{entry['count']:7d}  {text}   ({entry['count_unrounded']:.2f} before rounding)"
        heaviest = _heaviest(entry, spans, entry["count_unrounded"], "{:.2f}")
        yield f"{'':9}({best} {entry['clip_counts'][clip]:.2f}{heaviest})"
        yield _alone(f"{count:.2f}" for count in entry["clip_counts"])
    else:
        said = f"{best} {entry['clip_probabilities'][clip]:.1%}"
        heaviest = _heaviest(entry, spans, entry["probability"])
        yield f"{_share(entry['probability'], text)}   ({said}{heaviest})"
        yield _alone(map(_percent, entry["clip_probabilities"]))


def _heaviest(entry: dict[str, Any], spans: Sequence[Span], pooled: float, form: str = "{:.1%}") -> str:
    """Return the clip without which the answer changes most, and that answer; empty if no change shows."""
    if not (changes := entry["change_without"]):
        return ""
    clip = max(range(len(changes)), key=lambda place: abs(changes[place]))
    before, after = form.format(pooled), form.format(pooled + changes[clip])
    return "" if after == before else f"; without clip {clip + 1} at {seconds(spans[clip])} it is {after}"


def _choice(entry: dict[str, Any]) -> dict[str, Any]:
    return entry["options"][entry["choice_index"]]


def _choice_lines(entry: dict[str, Any], text: str, best: str, heaviest: str) -> Iterator[str]:
    yield text or "(no question)"
    for place, option in enumerate(entry["options"]):
        mark = "  <- the choice" if place == entry["choice_index"] else ""
        yield f"{_share(option['probability'], option['option'])}{mark}"
        yield _alone(map(_percent, option["clip_probabilities"]))
    chosen = _choice(entry)["clip_probabilities"][entry["best_clip"]]
    yield f"{'':9}({best} {chosen:.1%}{heaviest})"


def _share(probability: float, what: str) -> str:
    return f"{probability:7.1%}  {printable(what)}"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _alone(said: Sequence[str] | Iterator[str]) -> str:
    return f"{'':9}clips alone: {', '.join(map(printable, said))}"


def seconds(span: Span) -> str:
    """Return the time of a clip."""
    start, end = span
    return f"{start:.1f} s" if start == end else f"{start:.1f}-{end:.1f} s"
