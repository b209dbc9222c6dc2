"""Steps whose gradient is not finite: their update is skipped, and too many of them in a row end the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from clipbert_jax.batch import Batch
from clipbert_jax.errors import UserError
from clipbert_jax.training.callbacks import Callback
from clipbert_jax.training.checkpoint import ResumePoint
from clipbert_jax.training.metrics_writer import drop_after, naming
from clipbert_jax.training.step import Metrics

MAX_IN_A_ROW = 10
_NUM_NAMED = 8


class NonFiniteGuard(Callback):
    """Counts steps without a finite gradient, and writes down the names of their examples.

    It reads the metrics of a step only after the next one is dispatched, so that the devices are never idle.

    Args:
      workdir: run directory; `nonfinite_steps.jsonl` in it forgets the steps that come again.
      name_examples: number of a step, from 1 on -> names of its examples.
      resume_point: where the run goes on, with the number of such steps in a row.
      log: receives a line for each such step.
    """

    def __init__(
        self,
        workdir: Path,
        name_examples: Callable[[int], Sequence[str]],
        resume_point: ResumePoint,
        *,
        log: Callable[[str], None],
    ) -> None:
        self._path = workdir / "nonfinite_steps.jsonl"
        self._name_examples = name_examples
        self._log = log
        self._unseen: tuple[int, Metrics] | None = None
        self.num_in_a_row = resume_point.num_nonfinite
        if jax.process_index() == 0 and self._path.is_file():
            drop_after(self._path, resume_point.next_step)

    def after_step(self, step: int, batch: Batch, metrics: Metrics) -> None:
        """Check the step before this one.

        Raises:
          UserError: it was the tenth in a row; names some of its examples.
        """
        self.flush()
        self._unseen = step, metrics

    def before_save(self, step: int) -> None:
        """Check this step too, as the checkpoint holds the count."""
        self.flush()

    def flush(self) -> None:
        """Wait for the last step and check it; raises as `after_step`."""
        if self._unseen is None:
            return
        (step, metrics), self._unseen = self._unseen, None
        if "is_skipped" not in metrics or not bool(jax.device_get(metrics["is_skipped"])):
            self.num_in_a_row = 0
            return
        self.num_in_a_row += 1
        names = list(self._name_examples(step))
        if jax.process_index() == 0:
            with naming(self._path), self._path.open("a") as file:
                file.write(json.dumps({"step": step, "examples": names}) + "\n")
        shown = ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")
        where = f"(examples {shown}; all are in {self._path})"
        self._log(f"step {step}: the gradient is not finite, so the update is skipped {where}")
        if self.num_in_a_row >= MAX_IN_A_ROW:
            raise UserError(
                f"{self.num_in_a_row} steps in a row, up to {step}, had no finite gradient {where}: train "
                "with lower learning rates or in float32, or look at these videos with `clipbert doctor`"
            )
