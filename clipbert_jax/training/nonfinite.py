"""Gradients that are not finite: the step leaves the update out, and too many in a row stop the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from clipbert_jax.errors import UserError
from clipbert_jax.training.metrics_writer import drop_after, naming
from clipbert_jax.training.step import Metrics

MAX_IN_A_ROW = 10
_NUM_NAMED = 8


class NonFiniteGuard:
    """Counts steps without a finite gradient, and writes down which examples they had.

    It looks at a step only when the next one has been dispatched, so that the devices are never idle for it.

    Args:
      folder: gets `nonfinite_steps.jsonl`, from process 0.
      name_examples: number of a step, from 1 on -> its examples.
      num_in_a_row: how many there were when the run stopped.
      log: receives a line for each.
    """

    def __init__(
        self,
        folder: Path,
        name_examples: Callable[[int], Sequence[str]] | None = None,
        *,
        num_in_a_row: int = 0,
        log: Callable[[str], None] = print,
    ) -> None:
        self._path = folder / "nonfinite_steps.jsonl"
        self._name_examples = name_examples or (lambda step: ())
        self._log = log
        self._unseen: tuple[int, Metrics] | None = None
        self.num_in_a_row = num_in_a_row

    def drop_after(self, step: int) -> None:
        """Forget steps that are to come again."""
        if self._path.is_file():
            drop_after(self._path, step)

    def after_step(self, step: int, metrics: Metrics) -> None:
        """Look at the step before this one.

        Raises:
          UserError: it was the tenth in a row; names some of its examples.
        """
        self.flush()
        self._unseen = step, metrics

    def flush(self) -> None:
        """Look at the last step, and wait for it; raises as `after_step`."""
        if self._unseen is None:
            return
        (step, metrics), self._unseen = self._unseen, None
        if "is_skipped" not in metrics or not bool(jax.device_get(metrics["is_skipped"])):
            self.num_in_a_row = 0
            return
        self.num_in_a_row += 1
        names = list(self._name_examples(step))
        self._note(step, names)
        shown = ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")
        where = f"(examples {shown}; all are in {self._path})"
        self._log(f"step {step}: the gradient is not finite, so the update is left out {where}")
        if self.num_in_a_row >= MAX_IN_A_ROW:
            raise UserError(
                f"{self.num_in_a_row} steps in a row, up to {step}, had no finite gradient {where}: train "
                "with lower learning rates or in float32, or look at these videos with `clipbert doctor`"
            )

    def _note(self, step: int, names: Sequence[str]) -> None:
        if jax.process_index() == 0:
            with naming(self._path), self._path.open("a") as file:
                file.write(json.dumps({"step": step, "examples": list(names)}) + "\n")
