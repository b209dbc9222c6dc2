"""Evaluates multiple choice, by a head trained for it or by matching each option, as in MSRVTT-MC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Int

from clipbert_jax.evaluation.metrics import accuracy_metrics
from clipbert_jax.evaluation.score import Reduced
from clipbert_jax.models.clipbert import ClipBertOutput
from data_pipelines.annotations.records import MultipleChoice
from data_pipelines.examples import option_texts
from experiments.evaluators.evaluator import QueryEvaluator, TextOptions, pooled_and_by_clip


class ChoiceTask(Protocol):
    """A task that can choose between texts."""

    def choice_logits(self, scores: jax.Array) -> jax.Array:
        """Pool scores [b k n a] over the clips and return a logit for each text [b n]."""
        ...


class MultipleChoiceEvaluator(QueryEvaluator):
    """Chooses the option with the highest logit."""

    record_kind = MultipleChoice

    def __init__(self, task: ChoiceTask, questions: Sequence[MultipleChoice], options: TextOptions) -> None:
        self._task = task
        num_options = max(len(question.options) for question in questions)
        encoded = [options.encode(option_texts(question), num_options) for question in questions]
        ids, masks = zip(*encoded, strict=True)
        super().__init__(questions, np.stack(ids), np.stack(masks))
        self._num_options = np.array([len(question.options) for question in questions])
        self._is_option = np.arange(num_options) < self._num_options[:, None]
        self._right = np.array([question.answer_index for question in questions])

    @property
    def baseline(self) -> Mapping[str, float]:
        """Return the accuracy of guessing, in percent."""
        return {"accuracy": 100 * float(np.mean(1 / self._num_options))}

    def all_texts(self) -> Iterator[str]:
        """Yield every question with every option."""
        return (text for question in self.records for text in option_texts(question))

    def reduce(self, output: ClipBertOutput) -> dict[str, jax.Array]:
        """Return the logits of the options [p n], and those of each clip alone [p n k]."""
        return pooled_and_by_clip(self._task.choice_logits, output.scores)

    def judge(self, reduced: Reduced) -> Reduced:
        """Return which choices are right."""
        return {"is_right": self._chosen(reduced) == self._right}

    def metrics_of(self, judged: Reduced, rows: Int[np.ndarray, " drawn"]) -> dict[str, float]:
        """Return the accuracy."""
        return accuracy_metrics(judged["is_right"][rows])

    def _chosen(self, reduced: Reduced) -> Int[np.ndarray, " m"]:
        return np.where(self._is_option, reduced["logits"], -np.inf).argmax(axis=1)

    def predictions(self, reduced: Reduced) -> Iterator[dict[str, Any]]:
        """Yield the choice, and the logits of each clip for each option."""
        for row, (question, chosen) in enumerate(zip(self.records, self._chosen(reduced), strict=True)):
            count = len(question.options)
            yield {
                "id": question.id,
                "video_id": question.video_id,
                "question": question.question,
                "options": list(question.options),
                "answer_index": question.answer_index,
                "predicted_index": int(chosen),
                "is_right": bool(chosen == question.answer_index),
                "logits": reduced["logits"][row, :count].tolist(),
                "clip_logits": reduced["clip_logits"][row, :count].tolist(),
            }
