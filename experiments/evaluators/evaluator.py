"""The base of all evaluators, and that of those that ask each video its own questions.

An evaluator takes a task and the records of a split. It names the videos and the texts that they meet,
reduces the scores, and turns them into metrics, intervals and predictions.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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


class Evaluator(abc.ABC):
    """Evaluates a model on the records of one split."""

    headline = "accuracy"
    """Name of the metric that ranks models."""
    is_lower_better = False
    """Whether the headline is an error."""
    one_clip: OneClip = "start"
    """Place of a single clip by the original's rule."""
    has_answers = True
    """Whether the records say what is right."""

    def __init__(self, records: Sequence[Any]) -> None:
        self.records = records
        """Captions or questions."""
        self.video_ids = tuple(dict.fromkeys(record.video_id for record in records))
        """Videos in the order in which `score` expects them."""
        place = {video_id: number for number, video_id in enumerate(self.video_ids)}
        self.video: Int[np.ndarray, " m"] = np.array([place[record.video_id] for record in records])
        """Place of each record's video among the videos."""

    @property
    @abc.abstractmethod
    def baseline(self) -> Mapping[str, float]:
        """Metrics without looking: those of guessing, or of the best constant answer."""

    @abc.abstractmethod
    def all_texts(self) -> Iterator[str]:
        """Yield every text, before it is cut."""

    @abc.abstractmethod
    def reduce(self, output: ClipBertOutput) -> dict[str, jax.Array]:
        """Return what is kept of the scores."""

    @abc.abstractmethod
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

    @abc.abstractmethod
    def metrics(self, reduced: Reduced) -> dict[str, float]:
        """Return the metrics.

        Raises:
          ValueError: scores that are not finite.
        """

    @abc.abstractmethod
    def evaluate(self, reduced: Reduced) -> Evaluation:
        """Return metrics with intervals."""

    @abc.abstractmethod
    def predictions(self, reduced: Reduced) -> Iterator[dict[str, Any]]:
        """Yield a line for every caption or question, as JSON values."""

    def write_extras(self, folder: Path, name: str, reduced: Reduced) -> list[Path]:
        """Write further files, such as a score matrix or a submission, and return their paths."""
        return []


class QueryEvaluator(Evaluator):
    """Asks each video its own questions; `reduce` returns arrays whose first axis counts questions."""

    def __init__(self, records: Sequence[Any], text_ids: np.ndarray, text_mask: np.ndarray) -> None:
        """Take the records and their texts [m n l]."""
        super().__init__(records)
        self._queries = Queries(text_ids=text_ids, text_mask=text_mask, video=self.video)

    def judge(self, reduced: Reduced) -> Reduced:
        """Return the input of `metrics_of`; slow work is done here, once for all resamples."""
        return reduced

    @abc.abstractmethod
    def metrics_of(self, judged: Reduced, rows: Int[np.ndarray, " drawn"]) -> dict[str, float]:
        """Return the metrics of some of the questions."""

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


def by_clip(pool: Callable[[jax.Array], jax.Array], scores: jax.Array) -> jax.Array:
    """Apply `pool` to each clip alone: scores [b k n a] -> [b k n ...]."""
    b, k = scores.shape[:2]
    pooled = pool(scores.reshape(b * k, 1, *scores.shape[2:]))
    return pooled.reshape(b, k, *pooled.shape[1:])


def pooled_and_by_clip(pool: Callable[[jax.Array], jax.Array], scores: jax.Array) -> dict[str, jax.Array]:
    """Return `logits` [b n] of the pooled clips, and `clip_logits` [b n k] of each clip alone."""
    return {"logits": pool(scores), "clip_logits": jnp.moveaxis(by_clip(pool, scores), 1, 2)}


def _check_finite(reduced: Reduced) -> None:
    for values in reduced.values():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise ValueError("scores are not finite: the model's parameters or its inputs hold NaN")
