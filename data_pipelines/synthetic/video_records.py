"""Makes the captions and questions of synthetic videos.

The model scores each clip alone and averages over clips. So single frames answer every question: none asks
for an order in time or a direction. `video_corpus` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.annotations.records import Caption, MultipleChoice, OpenQuestion
from data_pipelines.annotations.store import SPLITS
from data_pipelines.synthetic.texts import QUESTIONS, Level, all_events, captions, event_text, object_name
from data_pipelines.synthetic.video import VideoPlan

NUM_OPTIONS = 5
"""Number of options of a multiple-choice question."""


def video_records(plans: Sequence[VideoPlan], split: str, level: Level) -> dict[type, list[Any]]:
    """Return the records of a split by kind; train videos have one or two captions, the others one."""
    rng = np.random.default_rng([plans[0].seed, 10 + SPLITS.index(split)])
    return {
        Caption: [
            caption
            for plan in plans
            for caption in captions(
                plan.video_id, plan.events, int(rng.integers(1, 3)) if split == "train" else 1, rng
            )
        ],
        MultipleChoice: [_multiple_choice(plan, level, rng) for plan in plans],
        OpenQuestion: [_open_question(plan, level, rng) for plan in plans],
    }


def _multiple_choice(plan: VideoPlan, level: Level, rng: np.random.Generator) -> MultipleChoice:
    others = [event for event in all_events(level) if event not in plan.events]
    options = [others[i] for i in rng.choice(len(others), NUM_OPTIONS - 1, replace=False)]
    answer_index = int(rng.integers(NUM_OPTIONS))
    options.insert(answer_index, plan.events[rng.integers(len(plan.events))])
    return MultipleChoice(
        id=f"{plan.video_id}_choice",
        video_id=plan.video_id,
        question=QUESTIONS[level].choice,
        options=tuple(map(event_text, options)),
        answer_index=answer_index,
    )


def _open_question(plan: VideoPlan, level: Level, rng: np.random.Generator) -> OpenQuestion:
    asked, *rest = (plan.events[i] for i in rng.permutation(len(plan.events)))
    template = QUESTIONS[level].open
    if asked.state is not None:
        question, answer, question_type = template.format(object_name(asked)), asked.state, "state"
    else:
        question = template.format(*map(object_name, rest))
        answer, question_type = object_name(asked), "object"
    return OpenQuestion(
        id=f"{plan.video_id}_open",
        video_id=plan.video_id,
        question=question,
        answer=answer,
        question_type=question_type,
    )
