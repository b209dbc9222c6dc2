"""Makes the validation of a training from its experiment; `train_run.py` calls it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import model_shapes
from clipbert_jax.models.model_def import Parameters
from clipbert_jax.training.validation import Validate, ValidationResult
from data_pipelines.annotations.store import records_path
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.loader import check_videos
from data_pipelines.read_examples import record_kind
from experiments.evaluators.evaluator import TextOptions
from experiments.evaluators.make_evaluator import make_evaluator
from experiments.evaluators.score_split import score_split
from experiments.experiment import Experiment
from experiments.runs.resolve import training_answers


def make_validate(experiment: Experiment) -> Validate:
    """Return the function that validates parameters on the validation split of the first data directory.

    Raises:
      UserError: the split is missing or has no answers, or one of its videos is missing.
    """
    tokenizer, count = experiment.data.load_tokenizer(), experiment.train.num_validation_clips
    data = dataclasses.replace(
        experiment.data,
        data_dir=experiment.data.sources[0][0],
        # Threads: the workers of training occupy the shared memory.
        num_workers=0,
        num_threads=max(experiment.data.num_threads, experiment.data.num_workers),
    )
    options = TextOptions(
        tokenizer=tokenizer, max_length=data.max_text_length, answers=training_answers(experiment)
    )
    try:
        evaluator = make_evaluator(
            experiment.task.evaluations[0], experiment.task, data.data_dir, "validation", options
        )
    except UserError as error:
        raise UserError(f"{error}; or train without validation, with --train.num-validations 0") from error
    if not evaluator.has_answers:
        path = records_path(data.data_dir, record_kind(experiment.task), "validation")
        raise UserError(f"{path} has no answers: train without validation, with --train.num-validations 0")
    check_videos(evaluator.video_ids, open_corpus(data.data_dir), "of the validation records")
    scorer = Scorer(model_shapes(experiment.model, experiment.task.head)[0], {})

    def validate(parameters: Parameters, after_batch: Callable[[], None]) -> ValidationResult:
        scorer.parameters = parameters
        try:
            reduced = score_split(
                evaluator,
                scorer,
                data,
                what="validation",
                num_clips=[count],
                batch_size=8,
                texts_per_call=64,
                after_batch=after_batch,
            )
        finally:
            scorer.parameters = {}  # else their copies stay on the devices
        try:
            metrics = evaluator.metrics(reduced[count])
        except ValueError:
            # Scores are not finite: never the best, and training has its own rules for when to stop.
            metrics = {evaluator.headline: math.nan}
        score = metrics[evaluator.headline] * (-1 if evaluator.is_lower_better else 1)
        return ValidationResult(score=score, metrics=metrics)

    return validate
