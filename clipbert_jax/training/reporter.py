"""What a training run says of itself: progress lines, and records on disk. Process 0 only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from clipbert_jax.training.metrics_writer import MetricsWriter
from clipbert_jax.training.optimizer import OptimizerConfig, make_schedules
from clipbert_jax.training.step import Metrics
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.validation import ValidationCourse

_MAX_WAIT_SHARE = 0.05
"""More waiting for input than this share of the time is worth a line of advice."""


class Reporter:
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
