"""Run directories: train an experiment in one, load what was trained."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Bool, Int

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation import Scorer
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.skeleton import Parameters, split_model
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.training.checkpoint import SavedCheckpoint, WhichStep, has_checkpoint
from clipbert_jax.training.loop import train
from clipbert_jax.training.optimizer import check_optimizer_config
from clipbert_jax.training.run_directory import claim, list_differences, read_config
from clipbert_jax.training.validation import Validate, ValidationResult
from data_pipelines.annotations.store import read_answers, records_path
from data_pipelines.corpus.builder import open_corpus
from data_pipelines.examples import answer_kind, record_kind
from data_pipelines.loader import train_batches
from data_pipelines.tokenizer import Tokenizer, load_tokenizer
from experiments.evaluators.answers import SoftQuestionEvaluator
from experiments.evaluators.evaluator import TextOptions
from experiments.evaluators.make import make_evaluator
from experiments.experiment import FREE_FIELDS, AnyTask, Experiment, from_json, to_json
from experiments.initial_weights import start_from
from experiments.progress import say
from experiments.results import write_json
from experiments.scoring import score_split


def train_run(experiment: Experiment, workdir: Path, *, log: Callable[[str], None] = say) -> None:
    """Train an experiment in `workdir`, or continue the run that is there.

    Raises:
      UserError: bad data or options, or the directory holds a run with another config. Nothing has been
        written then.
    """
    check_numbers(experiment)
    check_optimizer_config(experiment.optimizer)
    experiment = resolve(experiment)
    check_batch_size(experiment)
    make_batches = functools.partial(
        train_batches,
        experiment.data,
        experiment.task,
        batch_size=experiment.train.batch_size,
        seed=experiment.train.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with contextlib.closing(make_batches(start_step=0)) as first_batches:
        # Bad annotations are reported before the directory is claimed.
        experiment = resolve_num_steps(experiment, first_batches.num_examples)
        notes = first_batches.notes
    check_model(experiment)
    validate = make_validate(experiment) if experiment.train.num_validations else None
    model = make_model(experiment)
    if experiment.init.model is not None and not has_checkpoint(workdir):
        notes += initial_weights(experiment, model)
    resolved_config = {**to_json(experiment), DATA_SHA256: data_sha256(experiment)}
    if jax.process_index() == 0:
        claim(workdir, resolved_config, free=FREE_FIELDS)
        experiment.data.load_tokenizer().save(workdir)
        write_json(workdir / ANSWERS, list(training_answers(experiment)))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the run directory is claimed")
    for note in notes:
        log(note)
    log(f"training in {workdir} on {jax.device_count()} {jax.devices()[0].platform} device(s)")
    train(
        model,
        experiment.task,
        config=experiment.train,
        optimizer_config=experiment.optimizer,
        make_batches=lambda step: make_batches(start_step=step),
        workdir=workdir,
        resolved_config=resolved_config,
        validate=validate,
        log=log,
    )


ANSWERS = "answers.json"
"""File of a run directory: the answer vocabulary that the head was trained for; empty for other tasks."""


def training_answers(experiment: Experiment) -> tuple[str, ...]:
    """Return the answer vocabulary of the data, if the task has one."""
    kind = answer_kind(experiment.task)
    return () if kind is None else read_answers(experiment.data.sources[0][0], kind)


def initial_weights(experiment: Experiment, model: ClipBert) -> list[str]:
    """Set the model's weights to those of the run that the experiment starts from; return lines about it.

    Raises:
      UserError: no such run, another vocabulary, or a model that does not fit.
    """
    assert experiment.init.model is not None
    source = Path(experiment.init.model)
    run = load_run(source)
    if run.tokenizer.tokens != experiment.data.load_tokenizer().tokens:
        raise UserError(
            f"--init.model {source} was trained with another vocabulary than {vocabulary_path(experiment)}: "
            f"words would change their meaning; prepare the data with --vocab {source / 'vocab.txt'}"
        )
    is_same_head = run.answers == training_answers(experiment)
    return start_from(model, run.scorer.parameters, source, is_same_head=is_same_head)


def make_validate(experiment: Experiment) -> Validate:
    """Return parameters -> score and metrics on the validation split of the first data directory.

    Every process does all of it on one of its devices, to the same numbers, and so decides alike.

    Raises:
      UserError: there is no validation split, or its answers are withheld.
    """
    tokenizer, count = experiment.data.load_tokenizer(), experiment.train.num_validation_clips
    data = dataclasses.replace(experiment.data, data_dir=experiment.data.sources[0][0])
    options = TextOptions(tokenizer=tokenizer, max_length=data.max_text_length)
    try:
        evaluator = make_evaluator(
            experiment.task_name,
            experiment.task,
            data.data_dir,
            "validation",
            options,
            answers=training_answers(experiment),
        )
    except UserError as error:
        raise UserError(f"{error}; or train without, with --train.num-validations 0") from error
    if isinstance(evaluator, SoftQuestionEvaluator) and not evaluator.has_answers:
        path = records_path(data.data_dir, record_kind(experiment.task), "validation")
        raise UserError(f"{path} has no answers to validate on: train with --train.num-validations 0")
    scorer = Scorer(split_model(nnx.eval_shape(lambda: make_model(experiment)))[0], {})

    def validate(parameters: Parameters) -> ValidationResult:
        scorer.parameters = {name: array.addressable_data(0) for name, array in parameters.items()}
        reduced = score_split(
            evaluator, scorer, data, what="validation", num_clips=[count], batch_size=8, texts_per_call=64
        )
        try:
            metrics = evaluator.metrics(reduced[count])
        except ValueError:
            # Not finite: training goes on or stops by its own rules, and this is never the best.
            metrics = {evaluator.headline: math.nan}
        score = metrics[evaluator.headline] * (-1 if evaluator.is_lower_better else 1)
        return ValidationResult(score=score, metrics=metrics)

    return validate


DATA_SHA256 = "data_sha256"
"""Field of config.json beside the experiment's own: what the data were, wherever they are."""


def data_sha256(experiment: Experiment) -> str:
    """Return a fingerprint of what training reads: names of videos, train records, vocabularies."""
    tokenizer = experiment.data.load_tokenizer()
    digest = hashlib.sha256(f"{tokenizer.is_lower_case} {tokenizer.tokens}".encode())
    digest.update(repr(training_answers(experiment)).encode())
    kind = record_kind(experiment.task)
    for data_dir, _ in experiment.data.sources:
        for path in (Path(data_dir) / "video_ids.json", records_path(data_dir, kind, "train")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def make_model(experiment: Experiment) -> ClipBert:
    """Return the experiment's model, freshly initialised from its seed."""
    return ClipBert(experiment.model, experiment.task.head, rngs=nnx.Rngs(experiment.train.seed))


def resolve(experiment: Experiment) -> Experiment:
    """Fill in what the data decide: a `vocab_size` or `num_answers` of 0 becomes as many as there are.

    Raises:
      UserError: no data or vocabulary, or the model has too few word embeddings, positions or answers.
    """
    open_corpus(experiment.data.data_dir)
    path, fusion, data = vocabulary_path(experiment), experiment.model.fusion, experiment.data
    num_tokens = load_tokenizer(path).vocab_size
    if fusion.vocab_size == 0:
        fusion = dataclasses.replace(fusion, vocab_size=num_tokens)
    if num_tokens > fusion.vocab_size:
        raise UserError(
            f"The vocabulary {path} has {num_tokens} tokens and the model {fusion.vocab_size}: set "
            f"--model.fusion.vocab-size to {num_tokens}, or to 0 for as many as there are."
        )
    if data.max_text_length > fusion.max_text_length:
        raise UserError(
            f"--data.max-text-length is {data.max_text_length}, the model has {fusion.max_text_length} text "
            f"positions: raise --model.fusion.max-text-length or shorten the texts."
        )
    model = dataclasses.replace(experiment.model, fusion=fusion)
    return dataclasses.replace(experiment, model=model, task=_resolve_answers(experiment))


def _resolve_answers(experiment: Experiment) -> AnyTask:
    """Fill in how many answers there are.

    Raises:
      UserError: no answer vocabulary, or the head has too few outputs for it.
    """
    task = experiment.task
    if not isinstance(task, OpenEndedQA | ImageQA):
        return task
    num_answers = len(training_answers(experiment))
    if task.num_answers == 0:
        return dataclasses.replace(task, num_answers=num_answers)
    if task.num_answers < num_answers:
        raise UserError(
            f"the data has {num_answers} answers, --task.num-answers {task.num_answers} is too small: use 0 "
            "for as many as there are"
        )
    return task


def resolve_num_steps(experiment: Experiment, num_examples: int) -> Experiment:
    """Turn a number of epochs, if there is one, into a number of steps."""
    train = experiment.train
    if not train.num_epochs:
        return experiment
    num_steps = math.ceil(train.num_epochs * num_examples / train.batch_size)
    return dataclasses.replace(experiment, train=dataclasses.replace(train, num_steps=max(num_steps, 1)))


AT_LEAST_ONE = {
    "data": ("num_clips", "num_frames", "size", "max_text_length", "num_prefetch", "num_threads"),
    "train": (
        "num_steps",
        "batch_size",
        "num_accumulation_steps",
        "log_every_steps",
        "save_every_steps",
        "num_kept_checkpoints",
        "num_validation_clips",
    ),
}


AT_LEAST_ZERO = (
    ("data", "num_workers"),
    ("train", "seed"),
    ("train", "num_epochs"),
    ("train", "num_validations"),
    ("train", "early_stop_validations"),
)


MAX_DECODE_TIMEOUT_SECONDS = 250.0
"""Two attempts at a video end before training gives up waiting for a batch."""


MIN_WORKER_MEMORY_GIB = 0.5
"""With less, libraries abort or wait for ever where they should say that there is no memory."""


def check_numbers(experiment: Experiment) -> None:
    """Refuse counts, seeds and frame rates that are too small, and an early stop without validations.

    Raises:
      UserError: there is one.
    """
    for group, names in AT_LEAST_ONE.items():
        for name in names:
            value = getattr(getattr(experiment, group), name)
            if value < 1:
                raise UserError(f"--{group}.{name.replace('_', '-')} must be at least 1, not {value}")
    for group, name in AT_LEAST_ZERO:
        value = getattr(getattr(experiment, group), name)
        if not 0 <= value < math.inf:
            raise UserError(f"--{group}.{name.replace('_', '-')} must be at least 0, not {value}")
    if experiment.train.early_stop_validations and not experiment.train.num_validations:
        raise UserError("--train.early-stop-validations needs validations: give --train.num-validations too")
    for name in ("fps", "decode_timeout_seconds"):
        value = getattr(experiment.data, name)
        if not value > 0:
            raise UserError(f"--data.{name.replace('_', '-')} must be above 0, not {value}")
    if not experiment.data.worker_memory_gib >= MIN_WORKER_MEMORY_GIB:
        raise UserError(
            f"--data.worker-memory-gib must be at least {MIN_WORKER_MEMORY_GIB}, not "
            f"{experiment.data.worker_memory_gib:g}"
        )
    if experiment.data.decode_timeout_seconds > MAX_DECODE_TIMEOUT_SECONDS:
        raise UserError(
            f"--data.decode-timeout-seconds must be at most {MAX_DECODE_TIMEOUT_SECONDS:g}, not "
            f"{experiment.data.decode_timeout_seconds:g}"
        )


def check_model(experiment: Experiment) -> None:
    """Trace the model on shapes alone, so that sizes that do not fit are reported before anything is written.

    Raises:
      UserError: such as a grid larger than its position table, or a width that the heads do not divide.
    """
    data = experiment.data
    frames = jax.ShapeDtypeStruct((1, 1, data.num_frames, data.size, data.size, 3), jnp.uint8)
    text_ids = jax.ShapeDtypeStruct((1, 1, data.max_text_length), jnp.int32)
    text_mask = jax.ShapeDtypeStruct(text_ids.shape, jnp.bool_)
    try:
        model = nnx.eval_shape(lambda: make_model(experiment))
        skeleton, trainable, frozen = split_model(model)
        jax.eval_shape(
            lambda arrays, *inputs: skeleton.merge(arrays)(*inputs).scores,
            {**trainable, **frozen},
            frames,
            text_ids,
            text_mask,
        )
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(
            f"the model cannot be built with these --model and --data options: {error}"
        ) from error


def check_batch_size(experiment: Experiment) -> None:
    """Refuse a batch that does not divide over accumulation steps and devices.

    Raises:
      UserError: it does not.
    """
    config = experiment.train
    portion = config.num_accumulation_steps * jax.device_count()
    if config.batch_size % portion:
        raise UserError(
            f"--train.batch-size {config.batch_size} does not divide into {config.num_accumulation_steps} "
            f"accumulation step(s) on {jax.device_count()} device(s): use a multiple of {portion}."
        )


def vocabulary_path(experiment: Experiment) -> Path:
    """Return the vocabulary that the experiment's texts go through."""
    return Path(experiment.data.vocab or Path(experiment.data.data_dir) / "vocab.txt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model with all that is needed to use it."""

    workdir: Path
    experiment: Experiment
    step: int
    """The checkpoint's step."""
    scorer: Scorer
    tokenizer: Tokenizer
    answers: tuple[str, ...]
    """What the outputs of the head mean, if it answers from a vocabulary."""

    @property
    def text_options(self) -> TextOptions:
        """How texts become ids."""
        return TextOptions(tokenizer=self.tokenizer, max_length=self.experiment.data.max_text_length)

    def encode_texts(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
        """Return ids and mask [n l] of texts."""
        return self.tokenizer.encode(list(texts), self.experiment.data.max_text_length)


def load_run(workdir: Path, *, step: WhichStep = None) -> Run:
    """Load a checkpoint of a run, by default the best on validation or else the newest, on one device.

    Raises:
      UserError: no run there, no such checkpoint, or one of another config than the run's.
    """
    config = read_config(workdir)
    checkpoint = SavedCheckpoint(workdir, step=step)
    differences = list_differences(checkpoint.config, config, free=FREE_FIELDS)
    if differences:
        raise UserError(
            f"{workdir / 'config.json'} is not the config that checkpoint {checkpoint.step} was trained with "
            f"({'; '.join(differences)}): restore that file."
        )
    config.pop(DATA_SHA256, None)
    experiment = from_json(config, workdir / "config.json")
    skeleton, trainable, frozen = split_model(nnx.eval_shape(lambda: make_model(experiment)))
    parameters = checkpoint.load_parameters({**trainable, **frozen})
    return Run(
        workdir=workdir,
        experiment=experiment,
        step=checkpoint.step,
        scorer=Scorer(skeleton, parameters),
        tokenizer=load_tokenizer(workdir),
        answers=_read_answers(workdir),
    )


def _read_answers(workdir: Path) -> tuple[str, ...]:
    path = workdir / ANSWERS
    if not path.is_file():
        raise UserError(f"{path} is missing: restore it, it says what the model's answers mean")
    return tuple(json.loads(path.read_text()))
