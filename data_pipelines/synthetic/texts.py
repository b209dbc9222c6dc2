"""Texts of the synthetic corpora: levels, templates, answers, and one vocabulary for each level.

A level decides how objects differ: `easy` has ten objects, `medium` colours and shapes, `hard` colours,
shapes and states that a single frame shows. The vocabulary depends only on the level, so a model that is
pretrained on the images can be finetuned on the videos.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

import numpy as np

from data_pipelines.annotations.records import Caption
from data_pipelines.synthetic.drawing import COLOURS, OBJECTS, STATES, Event
from data_pipelines.tokenizer import build_vocab

Level = Literal["easy", "medium", "hard"]
Value = TypeVar("Value")

PLACES = {
    1: ("there",),
    2: ("on the left", "on the right"),
    3: ("on the left", "in the middle", "on the right"),
}
"""Names of the places in an image, by its number of objects."""
WHICH_OBJECT = "which object is {}?"
_CAPTIONS = {
    1: ("{}", "look: {}", "only {}"),
    2: ("{} and {}", "look: {} and {}", "{}, and also {}"),
    3: ("{}, {} and {}", "look: {}, {} and {}", "{}, {}, and also {}"),
}
"""Templates by the number of objects."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
    """The templates of the questions that differ between levels."""

    choice: str
    open: str
    count: str
    is_there: str
    how_many: str


_ABOUT_OBJECTS = Questions(
    choice="which object appears?",
    open="which object appears besides the {} and the {}?",
    count="how many of these are there: {}?",
    is_there="is there a {}?",
    how_many="how many objects are there?",
)
_ABOUT_STATES = Questions(
    choice="what happens?",
    open="what does the {} do?",
    count="how many of these are there: {}?",
    is_there="is there a {} that {}?",
    how_many="how many different objects are there?",  # one that doubles is one
)
QUESTIONS: dict[Level, Questions] = {"easy": _ABOUT_OBJECTS, "medium": _ABOUT_OBJECTS, "hard": _ABOUT_STATES}


@functools.cache
def all_events(level: Level) -> tuple[Event, ...]:
    """Return all events of a level."""
    if level == "easy":
        return tuple(Event(shape=shape) for shape in OBJECTS)
    shapes = [shape for shape in OBJECTS if shape not in ("sun", "moon", "leaf")]  # odd in other colours
    if level == "medium":
        return tuple(Event(shape=s, colour=c) for s, c in itertools.product(shapes, COLOURS))
    return tuple(Event(shape=s, colour=c, state=x) for s, c, x in itertools.product(shapes, COLOURS, STATES))


def num_sets(level: Level, size: int) -> int:
    """Return the number of different sets of `size` events, one for each object."""
    events = all_events(level)
    num_objects = len({object_name(event) for event in events})
    return math.comb(num_objects, size) * (len(events) // num_objects) ** size


def draw_events(level: Level, size: int, rng: np.random.Generator) -> tuple[Event, ...]:
    """Draw events of different objects, in random order."""
    events = all_events(level)
    while True:
        chosen = tuple(events[i] for i in rng.choice(len(events), size, replace=False))
        if len({object_name(event) for event in chosen}) == size:
            return chosen


def balanced(values: Sequence[Value], length: int, rng: np.random.Generator) -> list[Value]:
    """Return values equally often, to within one, in random order."""
    return [values[i % len(values)] for i in rng.permutation(length).tolist()]


def event_text(event: Event) -> str:
    """Return "a red ball glows", with the parts that the level has."""
    return " ".join(filter(None, ("a", event.colour, event.shape, event.state)))


def object_name(event: Event) -> str:
    """Return "red ball", with the parts that the level has."""
    return " ".join(filter(None, (event.colour, event.shape)))


def captions(
    video_id: str, events: Sequence[Event], num_captions: int, rng: np.random.Generator
) -> list[Caption]:
    """Return captions with different templates and the objects in random order."""
    templates = rng.choice(_CAPTIONS[len(events)], num_captions, replace=False)
    orders = [rng.permutation(len(events)) for _ in templates]
    return [
        Caption(
            id=f"{video_id}_{number}",
            video_id=video_id,
            text=str(template).format(*(event_text(events[i]) for i in order)),
        )
        for number, (template, order) in enumerate(zip(templates, orders, strict=True))
    ]


def open_answers(level: Level) -> tuple[str, ...]:
    """Return the answers to open questions about videos, in the order of their labels."""
    return STATES if level == "hard" else _object_names(level)


def soft_answers(level: Level) -> tuple[str, ...]:
    """Return the answers to questions about images, in the order of their labels."""
    numbers = tuple(map(str, PLACES))
    return ("yes", "no", *numbers, *_object_names(level), *(STATES if level == "hard" else ()))


def vocabulary(level: Level) -> list[str]:
    """Return the WordPiece vocabulary of all texts of a level."""
    return build_vocab(text.replace("{}", " ") for text in _all_texts(level))


def _all_texts(level: Level) -> Iterator[str]:
    """Yield the parts of which all texts consist."""
    yield from itertools.chain(*_CAPTIONS.values(), *PLACES.values())
    yield from (WHICH_OBJECT, *dataclasses.astuple(QUESTIONS[level]))
    yield from map(event_text, all_events(level))
    yield from soft_answers(level)


def _object_names(level: Level) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(object_name, all_events(level))))
