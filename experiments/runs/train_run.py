"""Run directories: train an experiment in one, load what was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from clipbert_jax.pretrained.directory import Vocabulary
from clipbert_jax.training.logging_config import ProfileConfig
from clipbert_jax.training.loop import train
from clipbert_jax.training.optimizer import check_optimizer_config
from clipbert_jax.training.run_directory import (
    RunLock,
    check_claim,
    claim,
)
from clipbert_jax.training.saved_checkpoint import has_checkpoint
from clipbert_jax.training.sharding import check_mesh, make_mesh
from clipbert_jax.training.wandb_run import import_wandb
from data_pipelines.loader import train_batches
from experiments.experiment import FREE_FIELDS, Experiment, make_model, to_json
from experiments.runs.experiment_checks import check_batch_size, check_model, check_numbers, check_task
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
