"""Fills in what the data decide (sizes of vocabularies, number of steps), and fingerprints the data."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path

from clipbert_jax.errors import UserError
from clipbert_jax.tasks.task import AnswerTask, Task
from data_pipelines.annotations.store import read_answers, records_path
from data_pipelines.corpus.reader import open_corpus, videos_sha256
from data_pipelines.read_examples import answer_kind, record_kind
from data_pipelines.tokenizer import load_tokenizer
from experiments.experiment import Experiment


def resolve(experiment: Experiment) -> Experiment:
    """Fill in a `vocab_size` or `num_answers` of 0 from the data.

    Raises:
      UserError: data or vocabulary are missing, or the model is too small for them.
    """
    open_corpus(experiment.data.data_dir)
    path, fusion, data = vocabulary_path(experiment), experiment.model.fusion, experiment.data
    num_tokens = load_tokenizer(path).vocab_size
    if fusion.vocab_size == 0:
        fusion = dataclasses.replace(fusion, vocab_size=num_tokens)
    if num_tokens > fusion.vocab_size:
        raise UserError(
            f"the vocabulary {path} has {num_tokens} tokens and the model {fusion.vocab_size}: set "
            f"--model.fusion.vocab-size to {num_tokens}, or to 0 to take the number from the data"
        )
    if data.max_text_length > fusion.max_text_length:
        raise UserError(
            f"--data.max-text-length is {data.max_text_length}, but the model has {fusion.max_text_length} "
            f"text positions: raise --model.fusion.max-text-length, or lower --data.max-text-length"
        )
    model = dataclasses.replace(experiment.model, fusion=fusion)
    return dataclasses.replace(experiment, model=model, task=_resolve_answers(experiment))


def _resolve_answers(experiment: Experiment) -> Task:
    """Fill in the number of answers.

    Raises:
      UserError: no answer vocabulary, or the head has too few outputs for it.
    """
    task = experiment.task
    if not isinstance(task, AnswerTask):
        return task
    num_answers = len(training_answers(experiment))
    if 0 < task.num_answers < num_answers:
        raise UserError(
            f"--task.num-answers {task.num_answers} is too small for the {num_answers} answers of the data: "
            "use 0 to take the number from the data"
        )
    return task.with_num_answers(num_answers)


def resolve_num_steps(experiment: Experiment, num_examples: int) -> Experiment:
    """Convert a number of epochs, if there is one, to a number of steps."""
    train = experiment.train
    if not train.num_epochs:
        return experiment
    num_steps = math.ceil(train.num_epochs * num_examples / train.batch_size)
    return dataclasses.replace(experiment, train=dataclasses.replace(train, num_steps=max(num_steps, 1)))


def vocabulary_path(experiment: Experiment) -> Path:
    """Return the path of the vocabulary for the experiment's texts."""
    return Path(experiment.data.vocab or Path(experiment.data.data_dir) / "vocab.txt")


def training_answers(experiment: Experiment) -> tuple[str, ...]:
    """Return the answer vocabulary of the data, if the task has one."""
    kind = answer_kind(experiment.task)
    return () if kind is None else read_answers(experiment.data.sources[0][0], kind)


DATA_SHA256 = "data_sha256"
"""Field of config.json with the fingerprint of the data, beside the fields of the experiment."""


def data_sha256(experiment: Experiment) -> str:
    """Return a fingerprint of the videos, their names, the records and the vocabularies of a training."""
    tokenizer = experiment.data.load_tokenizer()
    digest = hashlib.sha256(f"{tokenizer.letter_rules.fingerprint} {tokenizer.tokens}".encode())
    digest.update(repr(training_answers(experiment)).encode())
    kind = record_kind(experiment.task)
    for data_dir, _ in experiment.data.sources:
        for path in (Path(data_dir) / "video_ids.json", records_path(data_dir, kind, "train")):
            digest.update(path.read_bytes())
        digest.update(videos_sha256(data_dir).encode())
    if experiment.train.num_validations:
        digest.update(records_path(experiment.data.sources[0][0], kind, "validation").read_bytes())
    return digest.hexdigest()[:16]
