"""Reads one checkpoint of a run: its config and its parameters, on any number of devices of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from clipbert_jax.errors import UserError
from clipbert_jax.models.model_def import Parameters
from clipbert_jax.renames import present_names
from clipbert_jax.training.checkpoint_items import (
    check_parameter_names,
    item_handlers,
    read_progress,
    readable,
    restore_target,
)
from clipbert_jax.training.validation import ValidationLog

WhichStep = int | Literal["best", "newest"] | None
"""Choice of a checkpoint: a step, the best on validation or the newest; None: the best, else the newest."""


def has_checkpoint(workdir: Path) -> bool:
    """Return whether a run has a complete checkpoint to go on from."""
    directory = workdir.resolve() / "checkpoints"
    return directory.is_dir() and bool(ocp.utils.checkpoint_steps(directory))


class SavedCheckpoint:
    """One checkpoint of a run.

    Attributes:
      config: resolved config of the run.
      step: step of the checkpoint.
      has_ema: whether `load_parameters` returns moving averages of the trained parameters.
    """

    def __init__(self, workdir: Path, *, step: WhichStep = None) -> None:
        """Find the checkpoint of `step`; by default the best on validation, the newest if there was none.

        Raises:
          UserError: there is no such checkpoint, or another version has written it.
        """
        self._directory = workdir.resolve() / "checkpoints"
        if not self._directory.is_dir():
            raise UserError(f"{workdir} holds no checkpoints: give the --workdir of a `clipbert train` run")
        with self._open() as manager:
            steps = sorted(manager.all_steps())
            if not steps:
                raise UserError(f"{self._directory} holds no complete checkpoint yet: train longer first")
            self.step = self._find(manager, steps, step)
            if self.step not in steps:
                raise UserError(f"{self._directory} holds no checkpoint of step {self.step}; it has {steps}")
            read_progress(manager, self.step)
            config = ocp.args.Composite(config=ocp.args.JsonRestore())
            with readable(self._directory / str(self.step)):
                saved = manager.restore(self.step, args=config)["config"]
                self.config: dict[str, Any] = present_names(saved)
        self.has_ema = (self._directory / str(self.step) / "ema").is_dir()

    def _find(self, manager: ocp.CheckpointManager, steps: Sequence[int], step: WhichStep) -> int:
        if isinstance(step, int):
            return step
        if step == "newest":
            return steps[-1]
        best_step = ValidationLog(self._directory.parent).history(steps[-1]).best_step
        if best_step is None and step == "best":
            raise UserError(
                f"{self._directory} has no best checkpoint, as the run was never validated: leave --step "
                "out, or train with --train.num-validations"
            )
        return steps[-1] if best_step is None else best_step

    def load_parameters(self, expected: Parameters) -> Parameters:
        """Return the parameters by flat name, on one device.

        Args:
          expected: arrays or shapes of the model, whose names and shapes must agree exactly.

        Raises:
          UserError: they do not.
        """
        with self._open() as manager:
            check_parameter_names(manager, self.step, expected)
            target = restore_target(expected, SingleDeviceSharding(jax.local_devices()[0]))
            items = {"parameters": ocp.args.StandardRestore(target)}
            with readable(self._directory / str(self.step)):
                if self.has_ema:
                    averaged = manager.item_metadata(self.step)["ema"]
                    items["ema"] = ocp.args.StandardRestore({name: target[name] for name in averaged})
                restored = manager.restore(self.step, args=ocp.args.Composite(**items))
        parameters = {**restored["parameters"], **(restored["ema"] if self.has_ema else {})}
        return {name: parameters[name] for name in expected}

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self._directory, item_handlers=item_handlers())
