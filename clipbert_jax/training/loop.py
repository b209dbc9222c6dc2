"""The training loop: restore, then batch -> step -> log -> validate -> save, to the last step.

It reads from top to bottom in the order of execution. Data come as an iterator of host batches; files
go to the run directory (see `checkpoint.py` and `metrics_writer.py` for what is in it).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from clipbert_jax.batch import Batch
from clipbert_jax.tasks.task import Task
from clipbert_jax.training.checkpoint import Checkpointer
from clipbert_jax.training.interruption import Interruption
from clipbert_jax.training.metrics_writer import MetricsWriter
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedules
from clipbert_jax.training.prefetch import BatchIterator, Prefetcher
from clipbert_jax.training.sharding import make_mesh, put_batch
from clipbert_jax.training.step import (
    Accumulation,
    Metrics,
    TrainState,
    TrainStep,
    make_train_state,
    make_train_step,
)
from clipbert_jax.training.validation import Validate, ValidationCourse, validation_steps

_MAX_WAIT_SHARE = 0.05
"""More waiting for input than this share of the time is worth a line of advice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in what portions, and what is kept."""

    num_steps: int = 1000
    """Optimizer updates; 0 where epochs decide."""
    num_epochs: float = 0.0
    """Passes over the examples of the data, which then decide the number of steps."""
    batch_size: int = 16
    """Videos in one update, over all devices and accumulation steps."""
    num_accumulation_steps: int = 1
    """Parts that a batch is processed in, to save memory."""
    accumulation: Accumulation = "mean"
    """`mean`: the parts are as the whole batch. `sum`: their gradients are added, as in the original."""
    frozen_parts: tuple[str, ...] = ()
    """Beginnings of the names of parameters that are not trained, such as pixel_encoder/ text_encoder/."""
    seed: int = 0
    """Of initial parameters, data order, clip sampling and dropout."""
    log_every_steps: int = 10
    save_every_steps: int = 500
    num_kept_checkpoints: int = 2
    """The newest ones; the best on validation is kept too."""
    num_validations: int = 0
    """Evaluations on the validation split, evenly spread over training, each with a checkpoint."""
    num_validation_clips: int = 4
    """Clips per video in them."""
    early_stop_validations: int = 0
    """Stop after so many validations without a new best; 0 goes on to the last step."""


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
    reporter = _Reporter(config, optimizer_config, workdir, first_step, explain_wait, log)
    compilations = _Compilations(train_step, log if jax.process_index() == 0 else lambda line: None)
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


class _Compilations:
    """Says why a step takes minutes: its texts have a new length, or something is wrong."""

    def __init__(self, train_step: TrainStep, log: Callable[[str], None]) -> None:
        self._count: Callable[[], int] = getattr(train_step, "_cache_size", lambda: 0)
        self._lengths: set[int] = set()
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()
        self._num_unexpected = 0
        self._log = log

    def before_step(self, step: int, batch: Batch) -> None:
        """Announce that a bucket of text lengths is met for the first time."""
        length = batch.text_ids.shape[-1]
        if self._lengths and length not in self._lengths:
            self._log(f"step {step} compiles, as the first with texts of {length} tokens")
        self._lengths.add(length)
        self._shapes.add(tuple(array.shape for array in jax.tree.leaves(batch)))

    def after_step(self, step: int) -> None:
        """Report a compilation that no new shape of a batch explains."""
        num_unexpected = self._count() - len(self._shapes)
        if num_unexpected > self._num_unexpected:
            self._num_unexpected = num_unexpected
            self._log(
                f"step {step} compiled again although a batch of this shape came before: training is "
                "slower than it should be; please report this with your config.json"
            )


class _Reporter:
    """Turns metrics into progress lines and records; reads the device only every few steps."""

    def __init__(
        self,
        config: TrainConfig,
        optimizer_config: OptimizerConfig,
        workdir: Path,
        first_step: int,
        explain_wait: Callable[[float], str] | None,
        log: Callable[[str], None],
    ) -> None:
        self._config = config
        self._schedules = make_schedules(optimizer_config, config.num_steps)
        self._explain_wait = explain_wait
        self._is_main = jax.process_index() == 0
        self._writer = MetricsWriter(workdir, first_step=first_step) if self._is_main else None
        self._log = log
        self._pending: list[Metrics] = []
        self._start = self._last_time = time.perf_counter()
        self._first_step = first_step
        self._last_wait = 0.0
        self._after_compile: tuple[int, float] | None = None

    def after_step(self, step: int, metrics: Metrics, wait_seconds: float) -> None:
        """Collect one step; log when it is time. Waiting here for the step before keeps one in flight."""
        self._pending.append(metrics)
        if len(self._pending) > 1:
            jax.block_until_ready(self._pending[-2])
        is_first = step == self._first_step + 1
        if not (is_first or step % self._config.log_every_steps == 0 or step == self._config.num_steps):
            return
        host = jax.device_get(self._pending)
        self._pending = []
        now = time.perf_counter()
        interval, waited = now - self._last_time, wait_seconds - self._last_wait
        self._last_time, self._last_wait = now, wait_seconds
        if self._after_compile is None:
            self._after_compile = (step, now)
        if self._writer is None:
            return
        record = {
            "step": step,
            **{
                name: float(sum(m[name] for m in host) / len(host))
                for name in host[0]
                if name.startswith("loss")
            },
            "grad_norm": float(host[-1]["grad_norm"]),
            **{
                f"{group}_learning_rate": float(jax.device_get(rate(step - 1)))
                for group, rate in self._schedules.items()
            },
            "step_seconds": interval / len(host),
            "videos_per_second": len(host) * self._config.batch_size / interval,
            "input_wait_share": waited / interval,
        }
        self._writer.write(record)
        self._log(self._line(record, is_first=is_first))
        if not is_first:
            self._advise(record)

    def after_validation(
        self, step: int, metrics: Mapping[str, float], course: ValidationCourse, seconds: float
    ) -> None:
        """Log a validation; its time does not count as the steps'."""
        self._last_time += seconds
        if self._after_compile is not None:
            compiled_step, compiled_time = self._after_compile
            self._after_compile = (compiled_step, compiled_time + seconds)
        if self._writer is None:
            return
        self._writer.write({"step": step, **{f"validation/{name}": x for name, x in metrics.items()}})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:4])
        is_best = "  (best so far)" if course.best_step == step else ""
        self._log(f"step {step:>{len(str(self._config.num_steps))}}  validation: {shown}{is_best}")

    def _advise(self, record: dict[str, Any]) -> None:
        """Say once what to do about slow input: it must come as fast as videos are used while it is there."""
        share = record["input_wait_share"]
        if self._explain_wait is None or share <= _MAX_WAIT_SHARE:
            return
        videos_per_second = record["videos_per_second"] / jax.process_count()
        self._log(self._explain_wait(videos_per_second / max(1 - share, 1e-3)))
        self._explain_wait = None

    def _line(self, record: dict[str, Any], *, is_first: bool) -> str:
        step, total = record["step"], self._config.num_steps
        line = f"step {step:>{len(str(total))}}/{total}  loss {record['loss']:.4f}"
        if is_first:
            return f"{line}  (compiled in {record['step_seconds']:.0f} s)"
        return (
            f"{line}  {record['videos_per_second']:.1f} videos/s  "
            f"input wait {record['input_wait_share']:.0%}  {self._time_left(step)} left"
        )

    def _time_left(self, step: int) -> str:
        """Extrapolate from the steps after the first, which compiled."""
        assert self._after_compile is not None
        compiled_step, compiled_time = self._after_compile
        rate = (self._last_time - compiled_time) / max(step - compiled_step, 1)
        seconds = round(rate * (self._config.num_steps - step))
        return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
