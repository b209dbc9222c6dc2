"""The training loop: restore, then batch -> step -> log -> save -> validate, to the last step.

It reads from top to bottom in the order of execution. Data come as an iterator of host batches; files
go to the run directory (see `checkpoint.py` and `metrics_writer.py` for what is in it). A run may be killed
at any moment, and asked to stop at any step or batch of a validation: what it does next depends on its
newest checkpoint and on the validations up to there alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from clipbert_jax.errors import CONTINUE_EXIT_CODE
from clipbert_jax.tasks.task import Task
from clipbert_jax.training.checkpoint import Checkpointer, ResumePoint
from clipbert_jax.training.compilations import Compilations
from clipbert_jax.training.interruption import Interruption
from clipbert_jax.training.logging_config import LoggingConfig, ProfileConfig
from clipbert_jax.training.nonfinite import NonFiniteGuard
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.prefetch import BatchIterator, Prefetcher
from clipbert_jax.training.profiler import Profiler
from clipbert_jax.training.reporter import Reporter
from clipbert_jax.training.sharding import make_mesh, put_batch, whole_parameters
from clipbert_jax.training.step import Metrics, TrainState, make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.utilization import make_utilization
from clipbert_jax.training.validation import Validate, ValidationHistory, ValidationLog, validation_steps
from clipbert_jax.training.watchdog import SAVE_SECONDS, Watchdog


class _StopRequested(Exception):  # noqa: N818, not an error
    """Somebody wants the run to stop now."""


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
    name_examples: Callable[[int], Sequence[str]] | None = None,
    mesh: Mesh | None = None,
    logging: LoggingConfig | None = None,
    profile: ProfileConfig | None = None,
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
      name_examples: number of a step, from 1 on -> names of its examples.
      mesh: devices; all of them by default.
      logging: where metrics go besides the run directory.
      profile: steps to take a trace of.
      log: receives progress lines (only on process 0).

    Raises:
      KeyboardInterrupt: after Ctrl-C, when the step is done and its checkpoint is saved.
      SystemExit: the same after SIGTERM, with the exit code that asks a launcher to start the run again.
      UserError: a checkpoint cannot be read or written, or gradients stay not finite.
    """
    say = log if jax.process_index() == 0 else lambda line: None
    mesh = mesh or make_mesh()
    optimizer = make_optimizer(optimizer_config, num_steps=config.num_steps)
    model_def, state = make_train_state(
        model, optimizer, mesh, frozen_parts=config.frozen_parts, has_ema=config.ema_decay > 0
    )
    train_step = make_train_step(
        model_def,
        task,
        optimizer,
        mesh,
        seed=config.seed,
        num_accumulation_steps=config.num_accumulation_steps,
        accumulation=config.accumulation,
        remat=config.remat,
        clips_per_pass=config.clips_per_pass,
        ema_decay=config.ema_decay,
    )

    with contextlib.ExitStack() as stack:
        # From here on, as the storage that a run is read from may hang too.
        watchdog = stack.enter_context(Watchdog(workdir, process_index=jax.process_index()))
        checkpointer = Checkpointer(
            workdir, config=resolved_config, num_kept=config.num_kept_checkpoints, log=say
        )
        first_step, num_nonfinite = 0, 0
        if checkpointer.latest_step is not None:
            state, progress = checkpointer.restore(state)
            first_step, num_nonfinite = progress.data["next_step"], progress.num_nonfinite
            say(f"continuing from step {first_step} of {config.num_steps} in {workdir}")
        watchdog.beat("the checkpoints were read")
        watchdog.extend_deadline()
        validations = ValidationLog(workdir)
        history = validations.history(first_step)
        due = validation_steps(config.num_steps, config.num_validations if validate else 0)

        def is_validation_due(step: int) -> bool:
            return step in due and history.last_step != step

        def is_over(step: int) -> bool:
            return step >= config.num_steps or history.has_stopped(config.early_stop_validations)

        if is_over(first_step) and not is_validation_due(first_step):
            is_early = first_step < config.num_steps
            how = f"has stopped early at step {first_step}" if is_early else f"has all {first_step} steps"
            say(f"{workdir} {how}; nothing to do")
            checkpointer.close()
            return state

        nonfinite = NonFiniteGuard(workdir, name_examples, num_in_a_row=num_nonfinite, log=say)
        if jax.process_index() == 0:
            validations.drop_after(first_step)
            nonfinite.drop_after(first_step)
        reporter = Reporter(
            config,
            optimizer_config,
            workdir,
            first_step,
            utilization=make_utilization(model, task, mesh, has_frozen_parts=bool(config.frozen_parts)),
            explain_wait=explain_wait,
            logging=logging or LoggingConfig(),
            resolved_config=resolved_config,
            log=say,
        )
        batches = Prefetcher(make_batches(first_step), lambda batch: put_batch(batch, mesh))
        compilations = Compilations(train_step, say)
        profiler = Profiler(profile, workdir, first_step=first_step, log=say)
        metrics: Metrics = {}
        step, is_stopped = first_step, False
        interruption = stack.enter_context(Interruption())
        # The checkpoint first: after a notice there is little time.
        stack.enter_context(_closing(checkpointer, batches, profiler, reporter))

        def after_batch_of_validation() -> None:
            watchdog.beat(f"a batch of the validation of step {step}")
            if interruption.should_stop():
                raise _StopRequested

        try:
            while True:
                if is_validation_due(step):
                    assert validate is not None
                    jax.block_until_ready(state.params)
                    start = time.perf_counter()
                    watchdog.extend_deadline()
                    parameters = whole_parameters(state.eval_params, mesh)
                    result = validate(parameters, after_batch_of_validation)
                    history = history.after(step, result.score)
                    if jax.process_index() == 0:
                        validations.add(step, result.score)
                    reporter.after_validation(step, result.metrics, history, time.perf_counter() - start)
                if is_over(step):
                    break
                step += 1
                profiler.before_step(step, metrics)
                if batches.is_empty:
                    jax.block_until_ready(metrics)  # waiting for input counts only while the devices are idle
                batch = next(batches)
                if compilations.before_step(step, batch):
                    watchdog.extend_deadline()
                state, metrics = train_step(state, batch)
                num_compilations = compilations.after_step(step)
                reporter.after_step(step, batch, metrics, batches.wait_seconds, num_compilations)
                nonfinite.after_step(step, metrics)
                profiler.after_step(step, metrics)
                watchdog.beat_step(step)
                checkpointer.check()
                is_stopped = interruption.should_stop() and step < config.num_steps
                is_saved = step == config.num_steps or step in due or step % config.save_every_steps == 0
                if is_stopped or is_saved:
                    nonfinite.flush()
                    watchdog.extend_deadline(SAVE_SECONDS)
                    progress = ResumePoint(data=batches.state, num_nonfinite=nonfinite.num_in_a_row)
                    checkpointer.save(state, progress, best_step=history.best_step)
                    watchdog.beat(f"the save of step {step}")
                if is_stopped:
                    break
        except _StopRequested:
            is_stopped = True
        reporter.flush(step)  # nobody does these steps again
        watchdog.extend_deadline(SAVE_SECONDS)
    if is_stopped:
        say(f"stopped at step {step} of {config.num_steps} and saved; the same command goes on from there")
        raise KeyboardInterrupt if interruption.is_by_keyboard else SystemExit(CONTINUE_EXIT_CODE)
    say(_outcome(step, history, config, workdir))
    return state


@contextlib.contextmanager
def _closing(*things: Any) -> Iterator[None]:
    """Close them in this order at the end, the others also when one cannot be."""
    with contextlib.ExitStack() as stack:
        for thing in reversed(things):
            stack.callback(thing.close)
        yield


def _outcome(step: int, history: ValidationHistory, config: TrainConfig, workdir: Path) -> str:
    best = "" if history.best_step is None else f", the best on validation is {history.best_step}"
    early = ""
    if step < config.num_steps:
        early = (
            f"no new best in {history.num_since_best} validations: stopped at step {step} of "
            f"{config.num_steps}\n"
        )
    return f"{early}done: checkpoint {step}{best} in {workdir / 'checkpoints'}"
