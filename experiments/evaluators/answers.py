"""Evaluates answers from a vocabulary, to open-ended questions and to questions with soft scores."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.evaluation.metrics import accuracy_metrics, answer_metrics
from clipbert_jax.evaluation.score import Reduced
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.task import AnswerTask
from data_pipelines.annotations.records import OpenQuestion, SoftQuestion
from experiments.evaluators.evaluator import Evaluation, QueryEvaluator, TextOptions, by_clip

NUM_ANSWERS = 5
"""Number of answers that predictions name for each question."""


class _AnswerEvaluator(QueryEvaluator):
    """Answers with the entry of the vocabulary that has the highest logit."""

    def __init__(self, task: AnswerTask, questions: Sequence[Any], options: TextOptions) -> None:
        self._task = task
        self.answers = options.answers
        ids, mask = options.encode([question.question for question in questions])
        super().__init__(questions, ids[:, None], mask[:, None])

    def all_texts(self) -> Iterator[str]:
        """Yield the questions."""
        return (question.question for question in self.records)

    def reduce(self, output: ClipBertOutput) -> dict[str, jax.Array]:
        """Return the best answers [p 5] and the best one of each clip [p k], with probabilities."""
        pooled = self._logits(output.scores)[:, 0]
        of_clips = by_clip(self._logits, output.scores)[:, :, 0]
        probabilities, answers = jax.lax.top_k(
            self._task.answer_probabilities(pooled), min(NUM_ANSWERS, len(self.answers))
        )
        clip_probabilities = self._task.answer_probabilities(of_clips)
        return {
            "answers": answers,
            "probabilities": probabilities,
            "clip_answers": jnp.argmax(clip_probabilities, axis=-1),
            "clip_probabilities": jnp.max(clip_probabilities, axis=-1),
            "clip_probabilities_of_answer": jnp.take_along_axis(
                clip_probabilities, answers[:, None, :1], axis=-1
            )[..., 0],
        }

    def _logits(self, scores: jax.Array) -> jax.Array:
        """Return logits of the vocabulary; further outputs of the head mean nothing."""
        return self._task.answer_logits(scores)[..., : len(self.answers)]

    def predictions(self, reduced: Reduced) -> Iterator[dict[str, Any]]:
        """Yield the best answers, and the answer of each clip alone."""
        for row, question in enumerate(self.records):
            yield {
                "id": question.id,
                "video_id": question.video_id,
                "question": question.question,
                **self._truth(row, self.answers[reduced["answers"][row, 0]]),
                "predicted": [
                    {"answer": self.answers[answer], "probability": float(probability)}
                    for answer, probability in zip(
                        reduced["answers"][row], reduced["probabilities"][row], strict=True
                    )
                ],
                "clips": [
                    {
                        "answer": self.answers[answer],
                        "probability": float(probability),
                        "probability_of_prediction": float(of_answer),
                    }
                    for answer, probability, of_answer in zip(
                        reduced["clip_answers"][row],
                        reduced["clip_probabilities"][row],
                        reduced["clip_probabilities_of_answer"][row],
                        strict=True,
                    )
                ],
            }

    def _truth(self, row: int, predicted: str) -> dict[str, Any]:
        raise NotImplementedError


class OpenQuestionEvaluator(_AnswerEvaluator):
    """One answer is right; a question whose answer is not in the vocabulary counts as wrong."""

    record_kind = OpenQuestion

    def __init__(self, task: AnswerTask, questions: Sequence[OpenQuestion], options: TextOptions) -> None:
        super().__init__(task, questions, options)
        label_of = {answer: label for label, answer in enumerate(self.answers)}
        self._right = np.array([label_of.get(question.answer, -1) for question in questions])
        self._types = np.array([question.question_type for question in questions])

    @property
    def baseline(self) -> Mapping[str, float]:
        """Return the accuracy of always giving the most frequent answer of this split."""
        counts = collections.Counter(question.answer for question in self.records)
        return {"accuracy": 100 * counts.most_common(1)[0][1] / len(self.records)}

    def metrics_of(self, judged: Reduced, rows: Int[np.ndarray, " drawn"]) -> dict[str, float]:
        """Return accuracies: overall, within the vocabulary, and by type."""
        return answer_metrics(judged["answers"][rows, 0], self._right[rows], self._types[rows])

    def _truth(self, row: int, predicted: str) -> dict[str, Any]:
        question = self.records[row]
        return {
            "answer": question.answer,
            "question_type": question.question_type,
            "is_in_vocabulary": bool(self._right[row] >= 0),
            "is_right": predicted == question.answer,
        }


class SoftQuestionEvaluator(_AnswerEvaluator):
    """Answers have scores from people; without scores, only a submission is written."""

    record_kind = SoftQuestion

    def __init__(self, task: AnswerTask, questions: Sequence[SoftQuestion], options: TextOptions) -> None:
        super().__init__(task, questions, options)
        self._types = np.array([question.answer_type for question in questions])
        known = set(self.answers)
        self._best = np.array(
            [max((x for a, x in q.answer_scores.items() if a in known), default=0.0) for q in questions]
        )

    @property
    def has_answers(self) -> bool:  # type: ignore[override]
        """Whether any question has scored answers; then one without any counts as wrong."""
        return any(question.answer_scores for question in self.records)

    @property
    def baseline(self) -> Mapping[str, float]:
        """Return the accuracy of the best constant answer to this split."""
        if not self.has_answers:
            return {}
        totals: collections.Counter[str] = collections.Counter()
        for question in self.records:
            totals.update(question.answer_scores)
        return {"accuracy": 100 * max(totals.values()) / len(self.records)}

    def metrics(self, reduced: Reduced) -> dict[str, float]:
        """Return the metrics; empty if the answers are withheld."""
        return super().metrics(reduced) if self.has_answers else {}

    def evaluate(self, reduced: Reduced) -> Evaluation:
        """Return metrics with intervals; empty if the answers are withheld."""
        return super().evaluate(reduced) if self.has_answers else Evaluation(metrics={}, intervals={})

    def judge(self, reduced: Reduced) -> Reduced:
        """Return the score of each answer."""
        given = (self.answers[answer] for answer in reduced["answers"][:, 0])
        pairs = zip(self.records, given, strict=True)
        return {"scores": np.array([question.answer_scores.get(answer, 0.0) for question, answer in pairs])}

    def metrics_of(self, judged: Reduced, rows: Int[np.ndarray, " drawn"]) -> dict[str, float]:
        """Return accuracies: overall, within the vocabulary, by type, and the best possible one."""
        scores, can_be_right = judged["scores"][rows], self._best[rows] > 0
        metrics = accuracy_metrics(scores, self._types[rows])
        if can_be_right.any():
            metrics["accuracy_in_vocabulary"] = 100 * float(scores[can_be_right].mean())
        metrics["share_out_of_vocabulary"] = 100 * float(np.mean(~can_be_right))
        metrics["best_possible_accuracy"] = 100 * float(self._best[rows].mean())
        return metrics

    def _truth(self, row: int, predicted: str) -> dict[str, Any]:
        question = self.records[row]
        return {
            "answer_scores": dict(question.answer_scores),
            "answer_type": question.answer_type,
            "question_type": question.question_type,
            "score": question.answer_scores.get(predicted, 0.0) if question.answer_scores else None,
        }

    def write_extras(self, folder: Path, name: str, reduced: Reduced) -> list[Path]:
        """Write the answers in the format of the VQA evaluation server."""
        path = folder / f"submission-{name}.json"
        answers = [
            {
                "question_id": int(question.id) if question.id.isdecimal() else question.id,
                "answer": self.answers[answer],
            }
            for question, answer in zip(self.records, reduced["answers"][:, 0], strict=True)
        ]
        write_whole(path, json.dumps(answers) + "\n")
        return [path]
