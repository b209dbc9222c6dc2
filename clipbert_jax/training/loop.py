"""The training loop, in the order of execution; `experiments/runs/train_run.py` calls it.

A run may be killed at any moment, and asked to stop at any step or batch of a validation. How it goes on
depends on its newest checkpoint, and on the validations up to that step, alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh

from clipbert_jax.errors import CONTINUE_EXIT_CODE
from clipbert_jax.tasks.task import Task
from clipbert_jax.training.callbacks import Callback, CallbackList
from clipbert_jax.training.checkpoint import Checkpointer, ResumePoint
from clipbert_jax.training.compilations import Compilations
from clipbert_jax.training.interruption import Interruption
from clipbert_jax.training.nonfinite import NonFiniteGuard
from clipbert_jax.training.optimizer import make_optimizer
from clipbert_jax.training.prefetch import Prefetcher, TrainData
from clipbert_jax.training.profiler import Profiler
from clipbert_jax.training.reporter import Reporter
from clipbert_jax.training.run_config import RunConfig
from clipbert_jax.training.sharding import put_batch, whole_parameters
from clipbert_jax.training.step import TrainState, make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.utilization import make_utilization
from clipbert_jax.training.validation import Validate, ValidationHistory, Validations
from clipbert_jax.training.watchdog import COMPILE_SECONDS, Watchdog


def train(
    model: nnx.Module,
    task: Task,
    data: TrainData,
    config: RunConfig,
    workdir: Path,
    mesh: Mesh,
    *,
    validate: Validate | None = None,
    callbacks: Sequence[Callback] = (),
    log: Callable[[str], None] = print,
) -> TrainState:
    """Train to the last step; go on from the newest checkpoint in `workdir` if there is one.

    Args:
      model: freshly initialised, or with imported weights.
      task: gives the losses.
      data: gives the batches of this process.
      config: settings of the run.
      workdir: run directory.
      mesh: devices.
      validate: scores the parameters, `config.train.num_validations` times.
      callbacks: called after the trainer's own.
      log: receives progress lines, on process 0 only.

    Raises:
      KeyboardInterrupt: after Ctrl-C, once the step is done and its checkpoint is saved.
      SystemExit: the same after SIGTERM, with the exit code that asks a launcher to start the run again.
      UserError: a checkpoint cannot be read or written, or gradients stay not finite.
    """
    say = log if jax.process_index() == 0 else lambda line: None
    num_steps = config.train.num_steps
    optimizer = make_optimizer(config.optimizer, num_steps=num_steps)
    model_def, state = make_train_state(model, optimizer, mesh, config.train)
    train_step = make_train_step(model_def, task, optimizer, mesh, config.train)
    with Watchdog(workdir) as watchdog, contextlib.ExitStack() as stack:
        checkpoints = Checkpointer(workdir, config.resolved, config.train.num_kept_checkpoints, log=say)
        state, resume_point = checkpoints.restore(state)
        watchdog.beat("the checkpoints were read", extension=COMPILE_SECONDS)
        step = first_step = resume_point.next_step
        validations = Validations(validate, config.train, workdir, first_step=step)
        if not _has_work(step, num_steps, validations, workdir, say):
            checkpoints.close()
            return state
        validations.drop_after(step)
        batches = Prefetcher(data.starting_at(step), partial(put_batch, mesh=mesh))
        stack.callback(batches.close)
        compilations = Compilations(train_step, on_compile=watchdog.extend_deadline, log=say)
        guard = NonFiniteGuard(workdir, data.name_examples, resume_point, log=say)
        utilization = make_utilization(model, mesh, train_step, state)
        reporter = Reporter(config, workdir, step, batches, compilations, utilization, data.explain_wait, say)
        profiler = Profiler(config.profile, workdir, first_step=step, log=say)
        # In this order: the watchdog after those that wait for the devices. Closed in reverse: the last save
        # first, as there is little time after a notice.
        callback = CallbackList(compilations, reporter, guard, profiler, watchdog, checkpoints, *callbacks)
        interruption = stack.enter_context(Interruption())
        stack.callback(callback.close)

        while True:
            # Save before validating, which may take long: a kill then loses no step, and a run that goes on
            # makes up for a validation that it finds undone.
            is_stopped = first_step < step < num_steps and interruption.should_stop()
            if is_stopped or (step > first_step and _is_save_due(step, validations, config.train)):
                _save(step, state, checkpoints, batches, guard, validations.history, callback)
            if validations.are_due(step) and not is_stopped:
                is_stopped = not _validate(step, state, mesh, validations, callback, interruption)
            if is_stopped or validations.have_ended(step):
                break
            step += 1
            callback.before_step(step)
            batch = next(batches)
            callback.before_dispatch(step, batch)
            state, metrics = train_step(state, batch)
            callback.after_step(step, batch, metrics)
        callback.at_end(step)
    if is_stopped:
        say(f"stopped at step {step} of {num_steps} and saved; the same command goes on from there")
        raise KeyboardInterrupt if interruption.is_by_keyboard else SystemExit(CONTINUE_EXIT_CODE)
    say(_outcome(step, validations.history, num_steps, workdir))
    return state


def _has_work(
    step: int, num_steps: int, validations: Validations, workdir: Path, say: Callable[[str], None]
) -> bool:
    """Say where the run goes on, and return whether there is something to do."""
    if step:
        say(f"continuing from step {step} of {num_steps} in {workdir}")
    if validations.are_due(step) or not validations.have_ended(step):
        return True
    how = f"has stopped early at step {step}" if step < num_steps else f"has all {num_steps} steps"
    say(f"{workdir} {how}; nothing to do")
    return False


def _save(
    step: int,
    state: TrainState,
    checkpoints: Checkpointer,
    batches: Prefetcher,
    guard: NonFiniteGuard,
    history: ValidationHistory,
    callback: Callback,
) -> None:
    """Save a checkpoint: the state, and where the data and the checks of a continued run begin."""
    callback.before_save(step)  # the guard flushes here: only then is its count the last one
    resume_point = ResumePoint(data=batches.state, num_nonfinite=guard.num_in_a_row)
    checkpoints.save(state, resume_point, best_step=history.best_step)
    callback.after_save(step)


class _StopRequested(Exception):  # noqa: N818, not an error
    """A request to stop came in the middle of a validation."""


def _validate(
    step: int,
    state: TrainState,
    mesh: Mesh,
    validations: Validations,
    callback: Callback,
    interruption: Interruption,
) -> bool:
    """Validate after a step; return whether that came to its end, before a request to stop."""

    def after_batch() -> None:
        callback.on_validation_batch(step)
        if interruption.should_stop():
            raise _StopRequested

    jax.block_until_ready(state.params)
    callback.before_validation(step)
    try:
        result = validations.run(step, whole_parameters(state.eval_params, mesh), after_batch)
    except _StopRequested:
        return False
    callback.after_validation(step, result.metrics, validations.history)
    return True


def _is_save_due(step: int, validations: Validations, config: TrainConfig) -> bool:
    """Return whether a step gets a checkpoint: some regularly, those that are validated, and the last one."""
    return step % config.save_every_steps == 0 or validations.are_planned(step) or step == config.num_steps


def _outcome(step: int, history: ValidationHistory, num_steps: int, workdir: Path) -> str:
    best = "" if history.best_step is None else f", the best on validation is {history.best_step}"
    early = ""
    if step < num_steps:
        early = (
            f"no new best in {history.num_since_best} validations: stopped at step {step} of {num_steps}\n"
        )
    return f"{early}done: checkpoint {step}{best} in {workdir / 'checkpoints'}"
