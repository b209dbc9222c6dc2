"""Makes the captions and questions of synthetic images, with the answers of ten simulated people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.annotations.records import Caption, Count, SoftQuestion
from data_pipelines.annotations.store import SPLITS
from data_pipelines.annotations.vqa_answers import score_answers
from data_pipelines.synthetic.drawing import STATES, Event
from data_pipelines.synthetic.image import ImagePlan
from data_pipelines.synthetic.texts import (
    PLACES,
    QUESTIONS,
    WHICH_OBJECT,
    Level,
    all_events,
    balanced,
    captions,
    event_text,
    object_name,
)

NUM_CAPTIONS = 2
NUM_COUNTS = 2
"""Number of counting questions for each image."""
NUM_LISTED = 3
"""Number of objects that a counting question lists."""
NUM_PEOPLE = 10
_SHARE_OF_DISSENT = {0: 0.7, 1: 0.2, 2: 0.1}
"""Share of the questions by the number of people who give another answer."""


def image_records(plans: Sequence[ImagePlan], split: str, level: Level) -> dict[type, list[Any]]:
    """Return the records of a split by kind: captions, soft questions and counts of every image."""
    rng = np.random.default_rng([plans[0].seed, 30 + SPLITS.index(split)])
    of_kind: dict[type, list[Any]] = {
        Caption: [c for plan in plans for c in captions(plan.video_id, plan.objects, NUM_CAPTIONS, rng)]
    }
    answers = balanced(("yes", "no"), len(plans), rng)
    of_kind[SoftQuestion] = [
        question
        for plan, answer in zip(plans, answers, strict=True)
        for question in (
            _is_there(plan, answer, level, rng),
            _how_many(plan, level, rng),
            *_which_object(plan, level, rng),
            *_what_it_does(plan, level, rng),
        )
    ]
    of_kind[Count] = [_count(plan, i, level, rng) for plan in plans for i in range(NUM_COUNTS)]
    return of_kind


def _count(plan: ImagePlan, number: int, level: Level, rng: np.random.Generator) -> Count:
    """List a fixed number of objects, of which the image shows some: as likely none as all."""
    count = int(rng.integers(min(len(plan.objects), NUM_LISTED) + 1))
    others = [event for event in all_events(level) if event not in plan.objects]
    listed = [plan.objects[i] for i in rng.choice(len(plan.objects), count, replace=False)]
    listed += [others[i] for i in rng.choice(len(others), NUM_LISTED - count, replace=False)]
    *names, last = (event_text(listed[i]) for i in rng.permutation(NUM_LISTED))
    return Count(
        id=f"{plan.video_id}_count_{number}",
        video_id=plan.video_id,
        question=QUESTIONS[level].count.format(f"{', '.join(names)} and {last}"),
        count=count,
    )


def _is_there(plan: ImagePlan, answer: str, level: Level, rng: np.random.Generator) -> SoftQuestion:
    """Ask for a shown object or, as often, for another one, so that texts alone tell nothing."""
    candidates = plan.objects
    if answer == "no":
        candidates = [event for event in all_events(level) if event not in plan.objects]
    event = candidates[rng.integers(len(candidates))]
    return _ask(
        plan,
        "is_there",
        QUESTIONS[level].is_there.format(object_name(event), event.state),
        answer,
        ["no" if answer == "yes" else "yes"],
        rng,
        question_type="is there a",
        answer_type="yes/no",
    )


def _how_many(plan: ImagePlan, level: Level, rng: np.random.Generator) -> SoftQuestion:
    number = len(plan.objects)
    return _ask(
        plan,
        "how_many",
        QUESTIONS[level].how_many,
        str(number),
        [str(other) for other in PLACES if abs(other - number) == 1],
        rng,
        question_type="how many",
        answer_type="number",
    )


def _which_object(plan: ImagePlan, level: Level, rng: np.random.Generator) -> list[SoftQuestion]:
    """Ask for the objects at one or two places; a wrong answer names another object of the image, if any."""
    places = list(zip(PLACES[len(plan.objects)], plan.objects, strict=True))
    chosen = [places[i] for i in sorted(rng.permutation(len(places))[:2])]
    return [
        _ask(
            plan,
            place.split()[-1],
            WHICH_OBJECT.format(place),
            object_name(event),
            _other_names(event, plan.objects) or _other_names(event, all_events(level)),
            rng,
            question_type="which object",
            answer_type="other",
        )
        for place, event in chosen
    ]


def _other_names(event: Event, events: Sequence[Event]) -> list[str]:
    return [name for name in dict.fromkeys(map(object_name, events)) if name != object_name(event)]


def _what_it_does(plan: ImagePlan, level: Level, rng: np.random.Generator) -> list[SoftQuestion]:
    """Ask for the state of an object, as for videos, at the level that has states."""
    event = plan.objects[rng.integers(len(plan.objects))]
    if event.state is None:
        return []
    return [
        _ask(
            plan,
            "state",
            QUESTIONS[level].open.format(object_name(event)),
            event.state,
            [state for state in STATES if state != event.state],
            rng,
            question_type="what does",
            answer_type="other",
        )
    ]


def _ask(
    plan: ImagePlan,
    name: str,
    question: str,
    answer: str,
    others: Sequence[str],
    rng: np.random.Generator,
    *,
    question_type: str,
    answer_type: str,
) -> SoftQuestion:
    """Return a question to which most people give the right answer, and sometimes one or two another one."""
    num_others = int(rng.choice(list(_SHARE_OF_DISSENT), p=list(_SHARE_OF_DISSENT.values())))
    other = others[int(rng.integers(len(others)))]
    people = [answer] * (NUM_PEOPLE - num_others) + [other] * num_others
    return SoftQuestion(
        id=f"{plan.video_id}_{name}",
        video_id=plan.video_id,
        question=question,
        answer_scores=score_answers(people),
        question_type=question_type,
        answer_type=answer_type,
    )
