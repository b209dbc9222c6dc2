"""Train an experiment in a run directory: resolve, check, claim, train. `clipbert train` calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from clipbert_jax.atomic_files import remove_unfinished
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.pretrained.directory import Vocabulary
from clipbert_jax.training.callbacks import Callback
from clipbert_jax.training.logging_config import ProfileConfig
from clipbert_jax.training.loop import train
from clipbert_jax.training.run_config import RunConfig
from clipbert_jax.training.run_directory import RunLock, check_claim, claim
from clipbert_jax.training.saved_checkpoint import has_checkpoint
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.validation import Validate
from clipbert_jax.training.wandb_run import import_wandb
from data_pipelines.loader import TrainBatches, train_batches
from experiments.experiment import FREE_FIELDS, Experiment, make_model, to_json
from experiments.runs.experiment_checks import check_devices, check_experiment, check_model
from experiments.runs.initial_weights import initial_weights
from experiments.runs.machine_checks import check_machine
from experiments.runs.resolve import (
    DATA_SHA256,
    data_sha256,
    resolve,
    resolve_num_steps,
    training_answers,
)
from experiments.runs.starts import noted_start
from experiments.runs.validate import make_validate
from experiments.runtime.processes import on_first_process
from experiments.runtime.progress import say


def train_run(
    experiment: Experiment,
    workdir: Path,
    *,
    profile: ProfileConfig | None = None,
    callbacks: Sequence[Callback] = (),
    log: Callable[[str], None] = say,
) -> None:
    """Train an experiment in `workdir`, or go on with the run there.

    Args:
      experiment: what to train, as options say it.
      workdir: run directory.
      profile: steps to take a trace of.
      callbacks: more callbacks of the training.
      log: receives progress lines.

    Raises:
      UserError: bad data or options, or the directory holds a run with another config. Nothing has been
        written then.
    """
    experiment, batches = _resolve(experiment)
    model, mesh, validate, notes = _check(experiment, workdir)
    resolved = {**to_json(experiment), DATA_SHA256: data_sha256(experiment)}
    lock = _claim(experiment, workdir, resolved, log)
    for note in [*batches.notes, *notes]:
        log(note)
    hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    log(f"training in {workdir} on {jax.device_count()} {jax.devices()[0].platform} device(s){hosts}")
    config = RunConfig(
        train=experiment.train,
        optimizer=experiment.optimizer,
        logging=experiment.logging,
        profile=profile,
        resolved=resolved,
    )
    with lock, noted_start(workdir):
        train(
            model,
            experiment.task,
            batches,
            config,
            workdir,
            mesh,
            validate=validate,
            callbacks=callbacks,
            log=log,
        )


def _resolve(experiment: Experiment) -> tuple[Experiment, TrainBatches]:
    """Check the options, and fill in what the data decide; workers start with the first batch."""
    check_experiment(experiment)
    check_devices(experiment, jax.device_count())
    if experiment.logging.wandb is not None:
        import_wandb()
    experiment = resolve(experiment)
    batches = train_batches(
        experiment.data,
        experiment.task,
        batch_size=experiment.train.batch_size,
        seed=experiment.train.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return resolve_num_steps(experiment, batches.num_examples), batches


def _check(experiment: Experiment, workdir: Path) -> tuple[ClipBert, Mesh, Validate | None, list[str]]:
    """Make what training needs, so that nothing is written if that fails; return also lines for the user."""
    check_model(experiment)
    mesh = make_mesh(config=experiment.mesh)
    notes = check_machine(experiment, workdir)
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
    return model, mesh, validate, notes


def _claim(
    experiment: Experiment, workdir: Path, resolved: dict[str, Any], log: Callable[[str], None]
) -> RunLock:
    """Write config and vocabulary of a new run, or compare with those of an old one; return its held lock."""
    lock = RunLock(workdir, log=log)

    def claim_workdir() -> None:
        check_claim(workdir, resolved, free=FREE_FIELDS)  # the lock is a file in the directory too
        lock.acquire()
        remove_unfinished(workdir)
        claim(workdir, resolved, free=FREE_FIELDS)
        tokenizer = experiment.data.load_tokenizer()
        Vocabulary(
            tokens=tokenizer.tokens,
            letter_rules=tokenizer.letter_rules,
            answers=training_answers(experiment),
        ).write(workdir)

    on_first_process(claim_workdir)
    return lock
