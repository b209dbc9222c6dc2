"""Evaluates counting: squared error and accuracy of the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation.metrics import count_metrics
from clipbert_jax.evaluation.score import Reduced
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.count import CountQA
from data_pipelines.annotations.records import Count
from experiments.evaluators.evaluator import QueryEvaluator, TextOptions, by_clip


class CountEvaluator(QueryEvaluator):
    """Rounds numbers and limits them to the range of the task."""

    record_kind = Count
    headline = "mse"
    is_lower_better = True

    def __init__(self, task: CountQA, questions: Sequence[Count], options: TextOptions) -> None:
        self._task = task
        ids, mask = options.encode([question.question for question in questions])
        super().__init__(questions, ids[:, None], mask[:, None])
        self._right = np.array([question.count for question in questions])
        outside = [q for q in questions if not task.min_count <= q.count <= task.max_count]
        if outside:
            raise UserError(
                f"question {outside[0].id!r} has the count {outside[0].count}, outside the range from "
                f"{task.min_count} to {task.max_count} of the model, as have {len(outside) - 1} others: "
                "correct or remove them"
            )

    @property
    def baseline(self) -> Mapping[str, float]:
        """Return the error of the best constant number, and the accuracy of the most frequent one."""
        constants = np.arange(self._right.min(), self._right.max() + 1)
        return {
            "mse": min(float(np.square(self._right - constant).mean()) for constant in constants),
            "mse_unrounded": float(np.var(self._right)),
            "accuracy": 100 * float(np.bincount(self._right).max() / len(self._right)),
        }

    def all_texts(self) -> Iterator[str]:
        """Yield the questions."""
        return (question.question for question in self.records)

    def reduce(self, output: ClipBertOutput) -> dict[str, jax.Array]:
        """Return the numbers [p], and those of each clip alone [p k]."""
        counts = self._task.counts
        return {"counts": counts(output.scores)[:, 0], "clip_counts": by_clip(counts, output.scores)[:, :, 0]}

    def metrics_of(self, judged: Reduced, rows: Int[np.ndarray, " drawn"]) -> dict[str, float]:
        """Return squared error and accuracy."""
        return count_metrics(
            judged["counts"][rows],
            self._right[rows],
            min_count=self._task.min_count,
            max_count=self._task.max_count,
        )

    def predictions(self, reduced: Reduced) -> Iterator[dict[str, Any]]:
        """Yield the number of the model, the answer made of it, and the number of each clip."""
        counts = reduced["counts"]
        answered = np.clip(np.rint(counts), self._task.min_count, self._task.max_count)
        for row, question in enumerate(self.records):
            yield {
                "id": question.id,
                "video_id": question.video_id,
                "question": question.question,
                "count": question.count,
                "predicted": int(answered[row]),
                "predicted_unrounded": float(counts[row]),
                "clip_counts": reduced["clip_counts"][row].tolist(),
            }
