"""The training loop: restore, then batch -> step -> log -> validate -> save, to the last step.

It reads from top to bottom in the order of execution. Data come as an iterator of host batches; files
go to the run directory (see `checkpoint.py` and `metrics_writer.py` for what is in it).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from clipbert_jax.tasks.task import Task
from clipbert_jax.training.checkpoint import Checkpointer
from clipbert_jax.training.compilations import Compilations
from clipbert_jax.training.interruption import Interruption
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.prefetch import BatchIterator, Prefetcher
from clipbert_jax.training.reporter import Reporter
from clipbert_jax.training.sharding import make_mesh, put_batch
from clipbert_jax.training.step import Metrics, TrainState, make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.validation import Validate, ValidationCourse, validation_steps


def train(
    model: nnx.Module,
    task: Task,
    *,
    config: TrainConfig,
    optimizer_config: OptimizerConfig,
    make_batches: Callable[[int], BatchIterator],
    workdir: Path,
    resolved_config: Mapping[str, Any],
    validate: Validate | None = None,
    explain_wait: Callable[[float], str] | None = None,
    mesh: Mesh | None = None,
    log: Callable[[str], None] = print,
) -> TrainState:
    """Train to the last step; continue from the newest checkpoint in `workdir` if there is one.

    Args:
      model: freshly initialised, or with imported weights.
      task: gives the losses.
      config: steps, batch size, seed, cadence.
      optimizer_config: learning rates and the rest.
      make_batches: step -> this process's batches from that step on.
      workdir: the run directory.
      resolved_config: of the whole run, as JSON values; stored with each checkpoint.
      validate: parameters -> score and metrics, for `num_validations`.
      explain_wait: videos per second that this process could train on -> what to do so that they come.
      mesh: devices; all of them by default.
      log: receives progress lines (only on process 0).

    Raises:
      KeyboardInterrupt: after Ctrl-C, when the step is done and its checkpoint is saved.
    """
    mesh = mesh or make_mesh()
    optimizer = make_optimizer(optimizer_config, num_steps=config.num_steps)
    skeleton, state = make_train_state(model, optimizer, mesh, frozen_parts=config.frozen_parts)
    train_step = make_train_step(
        skeleton,
        task,
        optimizer,
        mesh,
        seed=config.seed,
        num_accumulation_steps=config.num_accumulation_steps,
        accumulation=config.accumulation,
    )

    checkpointer = Checkpointer(workdir, config=resolved_config, num_kept=config.num_kept_checkpoints)
    first_step, course = 0, ValidationCourse()
    if checkpointer.latest_step is not None:
        state, data_state, course = checkpointer.restore(state, mesh)
        log(f"continuing from step {int(state.step)} of {config.num_steps} in {workdir}")
        first_step = data_state["next_step"]
    if first_step >= config.num_steps or course.has_stopped:
        which = (
            f"has stopped early at step {first_step}" if course.has_stopped else f"has all {first_step} steps"
        )
        log(f"{workdir} {which}; nothing to do")
        checkpointer.close()
        return state

    batches = Prefetcher(make_batches(first_step), lambda batch: put_batch(batch, mesh))
    reporter = Reporter(config, optimizer_config, workdir, first_step, explain_wait, log)
    compilations = Compilations(train_step, log if jax.process_index() == 0 else lambda line: None)
    metrics: Metrics = {}
    due = validation_steps(config.num_steps, config.num_validations if validate else 0)
    with Interruption() as interruption:
        try:
            for step in range(first_step + 1, config.num_steps + 1):
                if batches.is_empty:
                    jax.block_until_ready(metrics)  # waiting for input counts only while the devices are idle
                batch = next(batches)
                compilations.before_step(step, batch)
                state, metrics = train_step(state, batch)
                compilations.after_step(step)
                reporter.after_step(step, metrics, batches.wait_seconds)
                if validate is not None and step in due:
                    jax.block_until_ready(state.params)
                    start = time.perf_counter()
                    result = validate({**state.params, **state.frozen})
                    course = course.after(step, result.score, patience=config.early_stop_validations)
                    reporter.after_validation(step, result.metrics, course, time.perf_counter() - start)
                is_last = step == config.num_steps or course.has_stopped or interruption.is_requested
                if is_last or step in due or step % config.save_every_steps == 0:
                    checkpointer.save(state, batches.state, course)
                if is_last:
                    break
        finally:
            batches.close()
            reporter.close()
            checkpointer.close()
    if interruption.is_requested and step < config.num_steps and not course.has_stopped:
        log(f"stopped at step {step} of {config.num_steps} and saved; the same command goes on from there")
        raise KeyboardInterrupt
    if course.has_stopped:
        log(
            f"no new best in {course.num_since_best} validations: stopped at step {step} of "
            f"{config.num_steps}"
        )
    best = "" if course.best_step is None else f", the best on validation is {course.best_step}"
    log(f"done: checkpoint {step}{best} in {workdir / 'checkpoints'}")
    return state
