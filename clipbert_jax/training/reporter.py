"""Reports of a training: lines, records on disk, and a bar on a terminal. Only process 0 reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipbert_jax.batch import Batch
from clipbert_jax.training.callbacks import Callback
from clipbert_jax.training.compilations import Compilations
from clipbert_jax.training.metrics_writer import MetricsWriter
from clipbert_jax.training.optimizer import make_schedules
from clipbert_jax.training.prefetch import Prefetcher
from clipbert_jax.training.progress_bar import ProgressBar, is_terminal
from clipbert_jax.training.run_config import RunConfig
from clipbert_jax.training.step import Metrics
from clipbert_jax.training.utilization import Utilization
from clipbert_jax.training.validation import ValidationHistory
from clipbert_jax.training.wandb_run import WandbRun

_MAX_WAIT_SHARE = 0.05
"""Share of the time above which waiting for input is worth a line of advice."""


class Reporter(Callback):
    """Turns metrics into lines and records; reads the devices only every few steps.

    A record covers the steps since the record before. It has the means of the losses and of the gradient norm
    over the updates that were made, and the number `num_skipped` of those that were not; the learning rates
    of the last step; `step_seconds`, `videos_per_second`, `input_wait_share`, `mfu` where it is known, and
    `num_compilations`, whose time counts in all of these.
    """

    def __init__(
        self,
        config: RunConfig,
        workdir: Path,
        first_step: int,
        batches: Prefetcher,
        compilations: Compilations,
        utilization: Utilization,
        explain_wait: Callable[[float], str],
        log: Callable[[str], None],
    ) -> None:
        self._config = config.train
        self._schedules = make_schedules(config.optimizer, config.train.num_steps)
        self._batches, self._compilations, self._utilization = batches, compilations, utilization
        self._explain_wait, self._has_advised, self._log = explain_wait, False, log
        self._sinks: list[MetricsWriter | WandbRun] = []
        self._bar: ProgressBar | None = None
        if jax.process_index() == 0:
            if config.logging.wandb is not None:  # first, as it may refuse
                self._sinks.append(WandbRun(config.logging.wandb, workdir, config.resolved))
            self._sinks.append(MetricsWriter(workdir, first_step=first_step))
            if is_terminal():
                self._bar = ProgressBar(first_step=first_step, num_steps=config.train.num_steps)
        self._pending: list[Metrics] = []
        self._flops = self._last_compilations = 0
        self._last_time = self._validation_start = time.perf_counter()
        self._first_step = first_step
        self._last_wait = 0.0
        self._after_compile: tuple[int, float] | None = None

    def before_step(self, step: int) -> None:
        """Wait for the step before if there is no batch: waiting for input counts while the devices idle."""
        if self._batches.is_empty:
            jax.block_until_ready(self._pending)

    def after_step(self, step: int, batch: Batch, metrics: Metrics) -> None:
        """Collect one step, and log when it is time. Waiting here for the step before keeps one in flight."""
        self._pending.append(metrics)
        if len(self._pending) > 1:
            jax.block_until_ready(self._pending[-2])
        self._flops += self._utilization.flops(batch)
        if self._bar is not None:
            self._bar.advance(step)
        is_first = step == self._first_step + 1
        if is_first or step % self._config.log_every_steps == 0 or step == self._config.num_steps:
            self.flush(step)

    def at_end(self, step: int) -> None:
        """Log the steps that no record covers: no later start makes them again."""
        self.flush(step)

    def flush(self, step: int) -> None:
        """Log the steps since the last record up to this one."""
        if not self._pending:
            return
        host = jax.device_get(self._pending)
        self._pending = []
        now, wait = time.perf_counter(), self._batches.wait_seconds
        interval, waited = now - self._last_time, wait - self._last_wait
        self._last_time, self._last_wait = now, wait
        if self._after_compile is None:
            self._after_compile = (step, now)
        if self._sinks:
            num_new = self._compilations.count - self._last_compilations
            speed = self._speed(len(host), interval, waited)
            self._report({"step": step, **self._learned(step, host), **speed, "num_compilations": num_new})
        self._flops, self._last_compilations = 0, self._compilations.count

    def before_validation(self, step: int) -> None:
        self._validation_start = time.perf_counter()

    def after_validation(self, step: int, metrics: Mapping[str, float], history: ValidationHistory) -> None:
        """Log a validation; its time does not count as that of steps."""
        seconds = time.perf_counter() - self._validation_start
        self._last_time += seconds
        if self._after_compile is not None:
            compiled_step, compiled_time = self._after_compile
            self._after_compile = (compiled_step, compiled_time + seconds)
        if not self._sinks:
            return
        self._write({"step": step, **{f"validation/{name}": x for name, x in metrics.items()}})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:4])
        is_best = "  (best so far)" if history.best_step == step else ""
        self._log(f"step {step:>{len(str(self._config.num_steps))}}  validation: {shown}{is_best}")

    def close(self) -> None:
        """Remove the bar and close the files."""
        if self._bar is not None:
            self._bar.close()
        for sink in self._sinks:
            sink.close()

    def _learned(self, step: int, host: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return the losses, the gradient norm and the learning rates of these steps."""
        made = [metrics for metrics in host if not metrics.get("is_skipped", 0)]
        averaged = [name for name in host[0] if name.startswith("loss") or name == "grad_norm"]
        values = {name: _mean([metrics[name] for metrics in made]) for name in averaged}
        if "is_skipped" in host[0]:
            values["num_skipped"] = len(host) - len(made)
        rates = {group: float(jax.device_get(rate(step - 1))) for group, rate in self._schedules.items()}
        return {**values, **{f"{group}_learning_rate": rate for group, rate in rates.items()}}

    def _speed(self, num_steps: int, interval: float, waited: float) -> dict[str, float]:
        """Return the speed of these steps."""
        speed = {
            "step_seconds": interval / num_steps,
            "videos_per_second": num_steps * self._config.batch_size / interval,
            "input_wait_share": waited / interval,
        }
        mfu = self._utilization.share(self._flops, interval)
        return speed if mfu is None else {**speed, "mfu": mfu}

    def _report(self, record: dict[str, Any]) -> None:
        self._write(record)
        is_first = record["step"] == self._first_step + 1
        learned, speed = _learned_phrases(record), self._speed_phrases(record, is_first=is_first)
        total = self._config.num_steps
        self._log("  ".join([f"step {record['step']:>{len(str(total))}}/{total}", *learned, *speed]))
        if self._bar is not None:
            self._bar.show("  ".join([learned[0], *(phrase for phrase in speed if "s/step" not in phrase)]))
        if is_first and self._utilization.note:
            self._log(self._utilization.note)
        if not is_first:
            self._advise(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(record)

    def _speed_phrases(self, record: Mapping[str, Any], *, is_first: bool) -> list[str]:
        if is_first:
            return [f"(compiled in {record['step_seconds']:.0f} s)"]
        utilization = [f"MFU {record['mfu']:.0%}"] if "mfu" in record else []
        return [
            f"{record['step_seconds']:.3g} s/step",
            f"{record['videos_per_second']:.1f} videos/s",
            *utilization,
            f"input wait {record['input_wait_share']:.0%}",
            f"{self._time_left(record['step'])} left",
        ]

    def _advise(self, record: Mapping[str, Any]) -> None:
        """Say once what to do about slow input: it must keep up with the steps that do not wait."""
        share = record["input_wait_share"]
        if self._has_advised or share <= _MAX_WAIT_SHARE:
            return
        videos_per_second = record["videos_per_second"] / jax.process_count()
        self._log(self._explain_wait(videos_per_second / max(1 - share, 1e-3)))
        self._has_advised = True

    def _time_left(self, step: int) -> str:
        """Extrapolate from the steps after the first, which compiled."""
        assert self._after_compile is not None
        compiled_step, compiled_time = self._after_compile
        rate = (self._last_time - compiled_time) / max(step - compiled_step, 1)
        seconds = round(rate * (self._config.num_steps - step))
        return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"


def _mean(values: Sequence[np.ndarray]) -> float:
    return float(np.mean(values, dtype=np.float64)) if values else math.nan


def _learned_phrases(record: Mapping[str, Any]) -> list[str]:
    """Return the loss, the gradient norm and the learning rates."""
    phrases = [
        f"loss {record['loss']:.4f}",
        f"gradient {record['grad_norm']:.3g}",
        f"rate {_rates_phrase(record)}",
    ]
    skipped = record.get("num_skipped", 0)
    return [*phrases, f"{skipped} update(s) skipped"] if skipped else phrases


def _rates_phrase(record: Mapping[str, Any]) -> str:
    """Return each rate once, with the groups that have it if there are several."""
    suffix = "_learning_rate"
    groups: dict[str, list[str]] = {}
    for name, rate in record.items():
        if name.endswith(suffix):
            groups.setdefault(f"{rate:.1e}", []).append(name.removesuffix(suffix))
    if len(groups) == 1:
        return next(iter(groups))
    return ", ".join(f"{rate} ({', '.join(names)})" for rate, names in groups.items())
