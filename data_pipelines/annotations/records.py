"""The annotation records that every dataset is turned into, stored as JSON lines.

Records name videos by id, so that many tasks share one corpus in which each video is stored once. An `id` is
that of the original file wherever it has one, so that results can be handed in to whoever scores them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
    """A sentence or paragraph that describes one video: text-to-video retrieval."""

    id: str
    video_id: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """A question about one video with written-out options, one of them right; the question may be empty."""

    id: str
    video_id: str
    question: str
    options: tuple[str, ...]
    answer_index: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenQuestion:
    """A question about one video whose answer is one entry of an answer vocabulary."""

    id: str
    video_id: str
    question: str
    answer: str
    question_type: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftQuestion:
    """A question about one image that people answered differently: VQA."""

    id: str
    video_id: str
    question: str
    answer_scores: Mapping[str, float]
    """Of every answer given, its score in (0, 1]; empty where answers are withheld, as in a test split."""
    question_type: str = ""
    answer_type: str = ""
    """`yes/no`, `number` or `other`, by which VQA reports accuracy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count:
    """A question about how often something happens in one video."""

    id: str
    video_id: str
    question: str
    count: int
