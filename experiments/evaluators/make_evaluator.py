"""Which evaluator goes with a task, and with which other tasks it can be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.task import MatchTask
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion
from data_pipelines.annotations.store import read_records, records_path
from experiments.evaluators.answers import OpenQuestionEvaluator, SoftQuestionEvaluator
from experiments.evaluators.count import CountEvaluator
from experiments.evaluators.evaluator import Evaluator, TextOptions
from experiments.evaluators.multiple_choice import ChoiceTask, MultipleChoiceEvaluator
from experiments.evaluators.pretraining import PretrainingEvaluator
from experiments.evaluators.retrieval import RetrievalEvaluator

KIND_OF_EVALUATION: dict[str, tuple[type, type]] = {
    "retrieval": (Caption, MatchTask),
    "multiple_choice": (MultipleChoice, ChoiceTask),
    "open_ended_qa": (OpenQuestion, OpenEndedQA),
    "image_qa": (SoftQuestion, ImageQA),
    "count": (Count, CountQA),
    "pretraining": (Caption, Pretraining),
}
"""Name of a task -> the records it is evaluated on, and what a model's task must be able to do for that."""


def make_evaluator(
    name: str, task: Any, data_dir: str | Path, split: str, options: TextOptions, *, answers: Sequence[str]
) -> Evaluator:
    """Return an evaluator of a model on a split.

    Args:
      name: of the task to evaluate as: the model's own, or another that its scores serve.
      task: of the model.
      data_dir: where the records are.
      split: which of them.
      options: how texts become ids.
      answers: vocabulary that the model's answers are places in.

    Raises:
      UserError: the model cannot do that; there are no such records.
    """
    kind, needed = KIND_OF_EVALUATION[name]
    if not isinstance(task, needed):
        able = [other for other, (_, ability) in KIND_OF_EVALUATION.items() if isinstance(task, ability)]
        raise UserError(
            f"a model with this head cannot be evaluated as {name}, only as {' or '.join(able)}: give --task "
            "accordingly, or another run"
        )
    records: list[Any] = read_records(data_dir, kind, split)
    if not records:
        raise UserError(f"{records_path(data_dir, kind, split)} is empty: there is nothing to score")
    match name:
        case "retrieval":
            return RetrievalEvaluator(task, records, options)
        case "multiple_choice":
            return MultipleChoiceEvaluator(task, records, options)
        case "open_ended_qa":
            return OpenQuestionEvaluator(task, records, answers, options)
        case "image_qa":
            return SoftQuestionEvaluator(task, records, answers, options)
        case "count":
            return CountEvaluator(task, records, options)
    return PretrainingEvaluator(task, records, options)
