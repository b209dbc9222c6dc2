"""A trace of a few steps, for `xprof` and Perfetto: what the devices did, and what they waited for.

Waits for the devices before the first and after the last step of the trace; all other steps run as they
would without a trace.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from clipbert_jax.batch import Batch
from clipbert_jax.training.callbacks import Callback
from clipbert_jax.training.logging_config import ProfileConfig
from clipbert_jax.training.step import Metrics

_NUM_WARM_UP_STEPS = 3


class Profiler(Callback):
    """Takes the trace when its steps come; without a config it does nothing.

    Args:
      config: steps of the trace.
      workdir: run directory; the trace is in its folder `profile`.
      first_step: number of steps that are done at the start.
      log: receives a line when the trace is written, or if there was none.
    """

    def __init__(
        self,
        config: ProfileConfig | None,
        workdir: Path,
        *,
        first_step: int,
        log: Callable[[str], None],
    ) -> None:
        self._config, self._log = config, log
        self._folder = workdir.resolve() / "profile"
        self._is_tracing = self._is_done = False
        self._annotation: jax.profiler.StepTraceAnnotation | None = None
        self._metrics: Metrics = {}
        self._first = self._last = self._step = 0
        if config is not None:
            self._first = config.first_step or first_step + 1 + _NUM_WARM_UP_STEPS
            self._last = self._first + config.num_steps - 1

    def before_step(self, step: int) -> None:
        """Begin the trace before the batch of its first step, so that it shows the wait for input."""
        if self._config is None or not self._first <= step <= self._last:
            return
        if not self._is_tracing:
            jax.block_until_ready(self._metrics)
            jax.profiler.start_trace(self._folder)
            self._is_tracing = True
        self._step = step
        self._annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
        self._annotation.__enter__()

    def after_step(self, step: int, batch: Batch, metrics: Metrics) -> None:
        """End the trace after its last step."""
        self._metrics = metrics
        if self._annotation is not None:
            self._annotation.__exit__(None, None, None)
            self._annotation = None
        if self._is_tracing and step == self._last:
            jax.block_until_ready(metrics)
            self._stop()

    def close(self) -> None:
        """End a trace that was interrupted, or say that there was none."""
        if self._is_tracing:
            self._stop()
        elif self._config is not None and not self._is_done:
            self._log(f"no profile was taken: these were not the steps from {self._first} on")

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._is_tracing, self._is_done = False, True
        self._log(
            f"profile of steps {self._first} to {self._step} in {self._folder}: `pip install xprof`, then "
            f"`xprof --port 8791 {self._folder}` or TensorBoard shows it; its *.trace.json.gz opens at "
            "https://ui.perfetto.dev"
        )
