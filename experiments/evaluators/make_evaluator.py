"""Makes the evaluator of a model on a split, for validation and `clipbert evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from clipbert_jax.tasks.task import Task
from data_pipelines.annotations.store import read_records, records_path
from experiments.evaluators.answers import OpenQuestionEvaluator, SoftQuestionEvaluator
from experiments.evaluators.count import CountEvaluator
from experiments.evaluators.evaluator import Evaluator, TextOptions
from experiments.evaluators.multiple_choice import MultipleChoiceEvaluator
from experiments.evaluators.pretraining import PretrainingEvaluator
from experiments.evaluators.retrieval import RetrievalEvaluator

EVALUATORS: dict[str, Any] = {
    "retrieval": RetrievalEvaluator,
    "multiple_choice": MultipleChoiceEvaluator,
    "open_ended_qa": OpenQuestionEvaluator,
    "image_qa": SoftQuestionEvaluator,
    "count": CountEvaluator,
    "pretraining": PretrainingEvaluator,
}
"""Evaluators by the names that tasks list in `Task.evaluations`."""


def make_evaluator(
    name: str, task: Task, data_dir: str | Path, split: str, options: TextOptions
) -> Evaluator:
    """Return an evaluator of a model on a split.

    Args:
      name: evaluation: the task's own, or another that its scores serve.
      task: task of the model.
      data_dir: directory of the records.
      split: split of the records.
      options: vocabularies of the model.

    Raises:
      UserError: the model cannot be evaluated so, or there are no records.
    """
    if name not in task.evaluations:
        raise UserError(
            f"--task {name} does not suit this model, which can be evaluated as "
            f"{' or '.join(task.evaluations)}: give one of these, or another run"
        )
    evaluator = EVALUATORS[name]
    records = read_records(data_dir, evaluator.record_kind, split)
    if not records:
        raise UserError(f"{records_path(data_dir, evaluator.record_kind, split)} is empty: nothing to score")
    made = evaluator(task, records, options)
    made.one_clip = task.one_clip
    return made
