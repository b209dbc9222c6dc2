"""The train step of an experiment: sizes from the data if they exist, else by assumption."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clipbert_jax.tasks.task import AnswerTask
from clipbert_jax.training.train_program import BatchShape, TrainSetting
from data_pipelines.read_examples import make_examples
from experiments.experiment import Experiment
from experiments.runs.experiment_checks import check_devices, check_experiment, check_model
from experiments.runs.resolve import resolve, resolve_num_steps

_NUM_WORDS, _NUM_ANSWERS, _NUM_OPTIONS = 30522, 1500, 5
"""Sizes without data: words of bert-base-uncased, answers of MSRVTT-QA, options of TGIF-QA."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A training to estimate."""

    setting: TrainSetting
    num_steps: int | None
    """None if it is as many epochs of who knows how many examples."""
    assumptions: tuple[str, ...]
    """Assumptions about the data, a line each."""


def make_plan(experiment: Experiment, *, num_devices: int, num_examples: int | None) -> Plan:
    """Return what training an experiment on so many devices would be.

    Args:
      experiment: its data need not be there.
      num_devices: in all.
      num_examples: of an epoch; None for those of the data.

    Raises:
      UserError: settings that training would refuse, or a batch that does not divide.
    """
    check_experiment(experiment)
    check_devices(experiment, num_devices)
    if _is_prepared(experiment):
        experiment = resolve(experiment)
        dirs = [data_dir for data_dir, _ in experiment.data.sources]
        examples = [make_examples(experiment.task, data_dir, "train") for data_dir in dirs]
        num_texts = max(of_dir.num_texts for of_dir in examples)
        num_examples, assumptions = num_examples or sum(map(len, examples)), []
    else:
        num_texts = experiment.task.num_texts or _NUM_OPTIONS
        experiment, assumptions = _without_data(experiment)
    check_model(experiment)
    assumptions.append(f"every text has the full length of {experiment.data.max_text_length} tokens")
    if num_examples:
        experiment = resolve_num_steps(experiment, num_examples)
    return Plan(
        setting=_setting(experiment, num_texts),
        num_steps=experiment.train.num_steps or None,
        assumptions=tuple(assumptions),
    )


def _is_prepared(experiment: Experiment) -> bool:
    return all((Path(data_dir) / "video_ids.json").is_file() for data_dir, _ in experiment.data.sources)


def _without_data(experiment: Experiment) -> tuple[Experiment, list[str]]:
    """Fill in what the data would decide; return what was assumed."""
    model, task, assumptions = experiment.model, experiment.task, []
    if model.fusion.vocab_size == 0:
        fusion = dataclasses.replace(model.fusion, vocab_size=_NUM_WORDS)
        model = dataclasses.replace(model, fusion=fusion)
        assumptions.append(f"{_NUM_WORDS:,} words, as the data is not there: --model.fusion.vocab-size")
    if isinstance(task, AnswerTask) and task.num_answers == 0:
        task = task.with_num_answers(_NUM_ANSWERS)
        assumptions.append(f"{_NUM_ANSWERS:,} answers, as the data is not there: --task.num-answers")
    if task.num_texts is None:
        assumptions.append(f"{_NUM_OPTIONS} options of a question, as the data is not there")
    return dataclasses.replace(experiment, model=model, task=task), assumptions


def _setting(experiment: Experiment, num_texts: int) -> TrainSetting:
    data = experiment.data
    return TrainSetting(
        model=experiment.model,
        task=experiment.task,
        optimizer=experiment.optimizer,
        train=experiment.train,
        mesh=experiment.mesh,
        shape=BatchShape(
            num_videos=experiment.train.batch_size,
            num_clips=data.num_clips,
            num_frames=data.num_frames,
            height=data.size,
            width=data.size,
            num_texts=num_texts,
            text_length=data.max_text_length,
        ),
    )
