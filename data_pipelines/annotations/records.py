"""The annotation records that every dataset is turned into, stored as JSON lines.

Records name videos by id, so many tasks share one corpus that stores each video once. A record keeps the `id`
of the original file if it has one, so results can be submitted to an evaluation server.

An empty or contradictory record raises a ValueError with a short phrase; `store.read_records` adds file and
line. The readers of original files check such things themselves.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
    """A sentence or paragraph that describes one video: text-to-video retrieval."""

    id: str
    video_id: str
    text: str

    def __post_init__(self) -> None:
        _check_text("text", self.text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """A question about one video with options in words, one of them right; the question may be empty."""

    id: str
    video_id: str
    question: str
    options: tuple[str, ...]
    answer_index: int

    def __post_init__(self) -> None:
        if not isinstance(self.options, tuple) or len(self.options) < 2:
            raise ValueError(f"options must be two texts or more, not {_shown(self.options)}")
        for position, option in enumerate(self.options):
            _check_text(f"options[{position}]", option)
        if type(self.answer_index) is not int or not 0 <= self.answer_index < len(self.options):
            last = len(self.options) - 1
            raise ValueError(f"answer_index must be from 0 to {last}, not {_shown(self.answer_index)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """A question about one video whose answer is one entry of an answer vocabulary."""

    id: str
    video_id: str
    question: str
    answer: str
    question_type: str = ""

    def __post_init__(self) -> None:
        _check_text("question", self.question)
        _check_text("answer", self.answer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftQuestion:
    """A question about one image that people answered differently: VQA."""

    id: str
    video_id: str
    question: str
    answer_scores: Mapping[str, float]
    """Score in (0, 1] of each answer given; empty where answers are withheld, as in a test split."""
    question_type: str = ""
    answer_type: str = ""
    """`yes/no`, `number` or `other`; VQA reports the accuracy of each."""

    def __post_init__(self) -> None:
        _check_text("question", self.question)
        if not isinstance(self.answer_scores, Mapping):
            raise ValueError(f"answer_scores must be answers with scores, not {_shown(self.answer_scores)}")
        for answer, score in self.answer_scores.items():
            if type(score) not in (int, float) or not 0.0 < score <= 1.0:
                raise ValueError(
                    f"the score of {answer!r} must be above 0 and at most 1, not {_shown(score)}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count:
    """A question about how often something happens in one video."""

    id: str
    video_id: str
    question: str
    count: int

    def __post_init__(self) -> None:
        _check_text("question", self.question)
        if type(self.count) is not int or self.count < 0:
            raise ValueError(f"count must be a whole number from 0 on, not {_shown(self.count)}")


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {_shown(value)}")
    if not value.strip():
        raise ValueError(f"{name} is empty")


def _shown(value: Any) -> str:
    """Return a value as JSON, cut to 80 characters."""
    return json.dumps(value, default=repr, ensure_ascii=False)[:80]
