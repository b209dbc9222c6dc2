"""The annotation records that every dataset is turned into, stored as JSON lines.

Records name videos by id, so that many tasks share one corpus in which each video is stored once.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
    """A sentence or paragraph that describes one video: text-to-video retrieval."""

    id: str
    video_id: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """A question about one video with written-out options, one of them right."""

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
