"""Run directories: train an experiment in one, load what was trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from clipbert_jax.errors import UserError
from clipbert_jax.model_checks import InputsConfig
from clipbert_jax.model_directory import CONFIG, Vocabulary, has_weights
from clipbert_jax.model_directory import read_config as read_model_config
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.skeleton import Parameters
from clipbert_jax.pretrained import find, read_checked
from clipbert_jax.scorer import Scorer
from clipbert_jax.training.logging_config import ProfileConfig
from clipbert_jax.training.loop import train
from clipbert_jax.training.optimizer import check_optimizer_config
from clipbert_jax.training.run_directory import (
    RunLock,
    check_claim,
    claim,
    list_differences,
    read_config,
)
from clipbert_jax.training.saved_checkpoint import SavedCheckpoint, WhichStep, has_checkpoint
from clipbert_jax.training.sharding import check_mesh, make_mesh
from clipbert_jax.training.validation import Validate, ValidationResult
from clipbert_jax.training.wandb_run import import_wandb
from data_pipelines.annotations.store import records_path
from data_pipelines.corpus.builder import open_corpus
from data_pipelines.examples import record_kind
from data_pipelines.loader import check_videos, train_batches
from data_pipelines.tokenizer import Tokenizer
from experiments.checks import check_batch_size, check_model, check_numbers, check_task
from experiments.evaluators.answers import SoftQuestionEvaluator
from experiments.evaluators.evaluator import TextOptions
from experiments.evaluators.make import make_evaluator
from experiments.experiment import FREE_FIELDS, Experiment, from_json, make_model, model_shapes, to_json
from experiments.initial_weights import start_from, start_from_file
from experiments.preflight import check_machine
from experiments.processes import on_first_process
from experiments.progress import say
from experiments.resolve import (
    DATA_SHA256,
    data_sha256,
    resolve,
    resolve_num_steps,
    training_answers,
    vocabulary_path,
)
from experiments.scoring import score_split
from experiments.starts import noted_start


def train_run(
    experiment: Experiment,
    workdir: Path,
    *,
    profile: ProfileConfig | None = None,
    log: Callable[[str], None] = say,
) -> None:
    """Train an experiment in `workdir`, or go on with the run there; `profile` takes a trace of some steps.

    Raises:
      UserError: bad data or options, or the directory holds a run with another config. Nothing has been
        written then.
    """
    check_numbers(experiment)
    check_task(experiment)
    check_optimizer_config(experiment.optimizer)
    if experiment.logging.wandb is not None:
        import_wandb()
    experiment = resolve(experiment)
    check_batch_size(experiment)
    # Bad annotations are reported here, before the directory is claimed; workers start with the first batch.
    batches = train_batches(
        experiment.data,
        experiment.task,
        batch_size=experiment.train.batch_size,
        seed=experiment.train.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    experiment = resolve_num_steps(experiment, batches.num_examples)
    notes = batches.notes
    check_model(experiment)
    check_mesh(experiment.mesh, jax.device_count(), num_heads=experiment.model.fusion.num_heads)
    mesh = make_mesh(config=experiment.mesh)
    notes += check_machine(experiment, workdir)
    validate = make_validate(experiment) if experiment.train.num_validations else None
    model = make_model(experiment)
    if not has_checkpoint(workdir):
        notes += initial_weights(experiment, model)
    has_pixel_weights = experiment.init.model is not None or experiment.init.pixel_encoder is not None
    if not has_pixel_weights and experiment.model.pixel_encoder.num_frozen_stages:
        notes.append(
            "the first stages of the pixel encoder are frozen at random weights: start from a trained model "
            "with --init.model or --init.pixel-encoder, or train them with "
            "--model.pixel-encoder.num-frozen-stages 0 --model.pixel-encoder.is-norm-trainable"
        )
    resolved_config = {**to_json(experiment), DATA_SHA256: data_sha256(experiment)}

    lock = RunLock(workdir, log=log)

    def claim_workdir() -> None:
        check_claim(workdir, resolved_config, free=FREE_FIELDS)  # the lock is a file in the directory too
        lock.acquire()
        claim(workdir, resolved_config, free=FREE_FIELDS)
        tokenizer = experiment.data.load_tokenizer()
        Vocabulary(
            tokens=tokenizer.tokens,
            is_lower_case=tokenizer.is_lower_case,
            answers=training_answers(experiment),
        ).write(workdir)

    on_first_process(claim_workdir)
    for note in notes:
        log(note)
    hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    log(f"training in {workdir} on {jax.device_count()} {jax.devices()[0].platform} device(s){hosts}")
    with lock, noted_start(workdir):
        train(
            model,
            experiment.task,
            config=experiment.train,
            optimizer_config=experiment.optimizer,
            make_batches=batches.starting_at,
            workdir=workdir,
            resolved_config=resolved_config,
            validate=validate,
            explain_wait=batches.explain_wait,
            name_examples=batches.name_examples,
            mesh=mesh,
            logging=experiment.logging,
            profile=profile,
            log=log,
        )


def initial_weights(experiment: Experiment, model: ClipBert) -> list[str]:
    """Set the model's weights to those that the experiment starts from, if any; return lines about them.

    Raises:
      UserError: no such run or file, another vocabulary, or weights that do not fit.
    """
    init = experiment.init
    lines = []
    if init.model is not None:
        if Path(init.model).is_file():
            has_answers = bool(training_answers(experiment))
            lines += start_from_file(model, Path(init.model), "model", has_answers=has_answers)
        else:
            lines += _start_from_run(experiment, model, Path(init.model))
    if init.pixel_encoder is not None:
        lines += start_from_file(model, Path(init.pixel_encoder), "pixel_encoder")
    if init.transformer is not None:
        lines += start_from_file(
            model,
            Path(init.transformer),
            "transformer",
            has_answers=bool(training_answers(experiment)),
            tokens=experiment.data.load_tokenizer().tokens,
        )
    return lines


def _start_from_run(experiment: Experiment, model: ClipBert, source: Path) -> list[str]:
    run = load_run(source)
    if run.tokenizer.tokens != experiment.data.load_tokenizer().tokens:
        raise UserError(
            f"--init.model {source} was trained with another vocabulary than {vocabulary_path(experiment)}: "
            f"words would change their meaning; prepare the data with --vocab {source / 'vocab.txt'}"
        )
    answers = training_answers(experiment)
    return start_from(
        model,
        run.scorer.parameters,
        f"{source} at step {run.step}" if run.step else str(source),
        is_same_head=run.answers == answers or not (run.answers and answers),
    )


def make_validate(experiment: Experiment) -> Validate:
    """Return parameters -> score and metrics on the validation split of the first data directory.

    Raises:
      UserError: there is no validation split, its answers are withheld, or a video of it is missing.
    """
    tokenizer, count = experiment.data.load_tokenizer(), experiment.train.num_validation_clips
    data = dataclasses.replace(
        experiment.data,
        data_dir=experiment.data.sources[0][0],
        # Threads, since the workers of training occupy the shared memory.
        num_workers=0,
        num_threads=max(experiment.data.num_threads, experiment.data.num_workers),
    )
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
    check_videos(evaluator.video_ids, open_corpus(data.data_dir), "of the validation records")
    scorer = Scorer(model_shapes(experiment)[0], {})

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
            scorer.parameters = {}  # copies of them would stay on the devices
        try:
            metrics = evaluator.metrics(reduced[count])
        except ValueError:
            # Not finite: training goes on or stops by its own rules, and this is never the best.
            metrics = {evaluator.headline: math.nan}
        score = metrics[evaluator.headline] * (-1 if evaluator.is_lower_better else 1)
        return ValidationResult(score=score, metrics=metrics)

    return validate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model with all that is needed to use it."""

    workdir: Path
    experiment: Experiment
    step: int
    """The checkpoint's step; 0 for a model directory, which has none."""
    scorer: Scorer
    tokenizer: Tokenizer
    answers: tuple[str, ...]
    """What the outputs of the head mean, if it answers from a vocabulary."""
    has_ema: bool = False
    """Whether the scorer has moving averages in the place of trained parameters."""

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
    if not workdir.exists():
        workdir = find(workdir)
    if has_weights(workdir):
        if step is not None:
            raise UserError(f"{workdir} is a model, not a run: it has no checkpoints; leave --step out")
        return _read_run(workdir, read_model_config(workdir), None)
    config = read_config(workdir)
    checkpoint = SavedCheckpoint(workdir, step=step)
    differences = list_differences(checkpoint.config, config, free=FREE_FIELDS)
    if differences:
        raise UserError(
            f"{workdir / CONFIG} is not the config that checkpoint {checkpoint.step} was trained with "
            f"({'; '.join(differences)}): restore that file."
        )
    return _read_run(workdir, config, checkpoint)


def _read_run(folder: Path, config: dict[str, Any], checkpoint: SavedCheckpoint | None) -> Run:
    """Return what a run or, without a checkpoint, a model directory holds, after a look at its files."""
    config.pop(DATA_SHA256, None)
    experiment = from_json(config, folder / CONFIG)
    inputs = InputsConfig.of(experiment.data)
    vocabulary, skeleton, parameters = read_checked(
        folder, experiment.model, experiment.task, inputs, checkpoint
    )
    return Run(
        workdir=folder,
        experiment=experiment,
        step=checkpoint.step if checkpoint else 0,
        scorer=Scorer(skeleton, parameters),
        tokenizer=Tokenizer(vocabulary.tokens, is_lower_case=vocabulary.is_lower_case),
        answers=vocabulary.answers,
        has_ema=checkpoint is not None and checkpoint.has_ema,
    )
