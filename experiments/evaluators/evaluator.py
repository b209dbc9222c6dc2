"""The contract of evaluators, and the base of those that ask each video its own questions.

An evaluator takes a task and the records of a split. It names the videos and the texts that they meet,
reduces the scores, and turns them into metrics, intervals and predictions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Int

from clipbert_jax.evaluation.bootstrap import bootstrap_intervals
from clipbert_jax.evaluation.score import OnProgress, Queries, Reduced, Videos, score_queries
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import ClipBertOutput
from data_pipelines.original_sampling import OneClip
from data_pipelines.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one split with one number of clips."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    """Bounds of 95 % intervals over resampled videos."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Vocabularies of a model: how texts become ids, and what the outputs of its head mean."""

    tokenizer: Tokenizer
    max_length: int
    answers: tuple[str, ...] = ()

    def encode(
        self, texts: Sequence[str], num_rows: int | None = None
    ) -> tuple[Int[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
        """Return ids and mask."""
        return self.tokenizer.encode(texts, self.max_length, num_rows=num_rows)


@runtime_checkable
class Evaluator(Protocol):
    """Evaluates a model on the records of one split."""

    @property
    def headline(self) -> str:
        """Name of the metric that ranks models."""
        ...

    @property
    def is_lower_better(self) -> bool:
        """Whether the headline is an error."""
        ...

    @property
    def video_ids(self) -> tuple[str, ...]:
        """Videos in the order in which `score` expects them."""
        ...

    @property
    def one_clip(self) -> OneClip:
        """Place of a single clip by the original's rule."""
        ...

    @property
    def num_records(self) -> int:
        """Number of captions or questions."""
        ...

    @property
    def baseline(self) -> Mapping[str, float]:
        """Metrics without looking: those of guessing, or of the best constant answer."""
        ...

    @property
    def has_answers(self) -> bool:
        """Whether the records say what is right."""
        ...

    def all_texts(self) -> Iterator[str]:
        """Yield every text, before it is cut."""
        ...

    def score(
        self,
        scorer: Scorer,
        videos: Videos,
        *,
        num_clips: Sequence[int],
        texts_per_call: int,
        on_progress: OnProgress,
    ) -> dict[int, Reduced]:
        """Return the reduced scores for each number of clips."""
        ...

    def metrics(self, reduced: Reduced) -> dict[str, float]:
        """Return the metrics.

        Raises:
          ValueError: scores that are not finite.
        """
        ...

    def evaluate(self, reduced: Reduced) -> Evaluation:
        """Return metrics with intervals."""
        ...

    def predictions(self, reduced: Reduced) -> Iterator[dict[str, Any]]:
        """Yield a line for every caption or question, as JSON values."""
        ...

    def write_extras(self, folder: Path, name: str, reduced: Reduced) -> list[Path]:
        """Write further files, such as a score matrix or a submission, and return their paths."""
        ...


class QueryEvaluator:
    """Asks each video its own questions; subclasses define the questions and the metrics."""

    headline = "accuracy"
    is_lower_better = False
    one_clip: OneClip = "start"
    has_answers = True

    def __init__(self, records: Sequence[Any], text_ids: np.ndarray, text_mask: np.ndarray) -> None:
        """Take the records and their texts [m n l]."""
        self.records = records
        self.video_ids = tuple(dict.fromkeys(record.video_id for record in records))
        place = {video_id: number for number, video_id in enumerate(self.video_ids)}
        self.video = np.array([place[record.video_id] for record in records])
        self._queries = Queries(text_ids=text_ids, text_mask=text_mask, video=self.video)

    @property
    def num_records(self) -> int:
        """Number of questions."""
        return len(self.records)

    def reduce(self, output: ClipBertOutput) -> dict[str, jax.Array]:
        """Return the reduced scores of some questions; the first axis counts questions."""
        raise NotImplementedError

    def judge(self, reduced: Reduced) -> Reduced:
        """Return the input of `metrics_of`; slow work is done here, once for all resamples."""
        return reduced

    def metrics_of(self, judged: Reduced, rows: Int[np.ndarray, " drawn"]) -> dict[str, float]:
        """Return the metrics of some of the questions."""
        raise NotImplementedError

    def score(
        self,
        scorer: Scorer,
        videos: Videos,
        *,
        num_clips: Sequence[int],
        texts_per_call: int,
        on_progress: OnProgress,
    ) -> dict[int, Reduced]:
        """Score every question with its own video."""
        return score_queries(
            scorer,
            self.reduce,
            videos,
            self._queries,
            num_clips=num_clips,
            texts_per_call=texts_per_call,
            on_progress=on_progress,
        )

    def metrics(self, reduced: Reduced) -> dict[str, float]:
        """Return the metrics of all questions."""
        _check_finite(reduced)
        return self.metrics_of(self.judge(reduced), np.arange(len(self.records)))

    def evaluate(self, reduced: Reduced) -> Evaluation:
        """Return metrics with intervals over the videos."""
        metrics = self.metrics(reduced)
        judged = self.judge(reduced)
        intervals = bootstrap_intervals(lambda rows: self.metrics_of(judged, rows), self.video)
        return Evaluation(metrics=metrics, intervals=intervals)

    def write_extras(self, folder: Path, name: str, reduced: Reduced) -> list[Path]:
        """Write no further files."""
        return []


def by_clip(pool: Callable[[jax.Array], jax.Array], scores: jax.Array) -> jax.Array:
    """Apply `pool` to each clip alone: scores [b k n a] -> [b k n ...]."""
    b, k = scores.shape[:2]
    pooled = pool(scores.reshape(b * k, 1, *scores.shape[2:]))
    return pooled.reshape(b, k, *pooled.shape[1:])


def _check_finite(reduced: Reduced) -> None:
    for values in reduced.values():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise ValueError("scores are not finite: the model's parameters or its inputs hold NaN")
