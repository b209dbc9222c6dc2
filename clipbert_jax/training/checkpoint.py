"""Checkpoints: parameters, optimizer state, step, data position and the resolved config, by Orbax.

    WORKDIR/checkpoints/STEP/
        parameters   flat name -> array, trained and frozen
        ema          flat name -> moving average of a trained array; only if the training keeps them
        optimizer    state of the optimizer
        progress     JSON: schema version, step, position in the data, steps without finite gradients
        config       JSON: resolved config of the run

A process may be killed at any moment: a checkpoint gets its name when it is complete, and loses it before
any of its files is deleted. Each device writes and reads its own part: a run may go on with another number of
devices or processes, or another mesh.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from clipbert_jax.batch import Batch
from clipbert_jax.errors import TemporaryError, UserError, is_temporary
from clipbert_jax.training.callbacks import Callback
from clipbert_jax.training.checkpoint_items import (
    SCHEMA_VERSION,
    check_parameter_names,
    first_line,
    is_of_storage,
    item_handlers,
    read_progress,
    readable,
    restore_target,
)
from clipbert_jax.training.step import Metrics, TrainState
from clipbert_jax.training.watchdog import SAVE_SECONDS


class _KeepBest(preservation_policy.PreservationPolicy):
    """Keeps the checkpoint with the best validation so far."""

    best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return [checkpoint.step == self.best_step for checkpoint in checkpoints]


_DELETED = "deleted"
"""Name of the folder to which checkpoints are moved before they are deleted."""

_SAVE_SECONDS = int(SAVE_SECONDS) - 60
"""Time that Orbax may write; a little less than the watchdog allows, as Orbax's error says more."""

_SLOW_SECONDS = 5.0
"""Time of waiting for the save before that is worth a line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Point at which a run goes on, besides its arrays; stored with each checkpoint."""

    data: dict[str, Any]
    """Position in the data."""
    num_nonfinite: int = 0
    """Number of steps without finite gradients, in a row up to this one."""

    @property
    def next_step(self) -> int:
        """Number of steps that are done."""
        return self.data["next_step"]


def _is_said_once(record: logging.LogRecord) -> bool:
    """Leave out errors that Orbax logs with a traceback: it raises them too, and the run says them."""
    return record.exc_info is None or "orbax" not in record.pathname


class _Manager(ocp.CheckpointManager):
    """Manager of Orbax that leaves preemption notices to the loop.

    The processes agree on a moment to stop by a number that each of them counts up. Orbax would count steps,
    and `interruption.py` counts its calls: with two counters the moment would never come.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpointer(Callback):
    """Saves and restores the train state of one run; keeps the newest few, and the best on validation.

    As a callback it only looks for errors of a save that goes on beside the training, and ends the last one.
    """

    def __init__(
        self,
        workdir: Path,
        config: Mapping[str, Any],
        num_kept: int = 2,
        *,
        log: Callable[[str], None] = print,
    ) -> None:
        self._keep_best = _KeepBest()
        policies = [preservation_policy.LatestN(num_kept), self._keep_best]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            create=True,
            cleanup_tmp_directories=True,  # what a killed process began
            todelete_subdir=_DELETED,
            async_options=ocp.AsyncOptions(timeout_secs=_SAVE_SECONDS),
        )
        self.directory = workdir.resolve() / "checkpoints"
        self._config = dict(config)
        self._log = log
        logging.getLogger("absl").addFilter(_is_said_once)
        with self._explained("opened"):
            self._manager = _Manager(self.directory, options=options, item_handlers=item_handlers())
        self._purge()

    def save(self, state: TrainState, progress: ResumePoint, *, best_step: int | None) -> None:
        """Save asynchronously, and keep the checkpoint of `best_step` too.

        Raises:
          UserError: this save or the one before failed; older checkpoints are still there.
        """
        step = int(state.step)
        start = time.perf_counter()
        with self._explained(f"saved at step {step}"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            self._check_writable()
        waited = time.perf_counter() - start
        if waited > _SLOW_SECONDS:
            self._log(
                f"step {step}: training waited {waited:.0f} s for the last checkpoint, as the storage of "
                f"{self.directory} is slow: save less often with --train.save-every-steps"
            )
        self._purge()
        self._keep_best.best_step = best_step
        record = {"schema_version": SCHEMA_VERSION, "step": step, **dataclasses.asdict(progress)}
        with self._explained(f"saved at step {step}"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    parameters=ocp.args.StandardSave({**state.params, **state.frozen}),
                    **({"ema": ocp.args.StandardSave(state.ema)} if state.ema else {}),
                    optimizer=ocp.args.StandardSave(state.opt_state),
                    progress=ocp.args.JsonSave(record),
                    config=ocp.args.JsonSave(self._config),
                ),
            )

    def after_step(self, step: int, batch: Batch, metrics: Metrics) -> None:
        """Raise the error of a save that goes on beside the training; costs nothing.

        Raises:
          UserError: the save failed; older checkpoints are still there.
        """
        with self._explained("saved"):
            self._manager.check_for_errors()

    def restore(self, state: TrainState) -> tuple[TrainState, ResumePoint]:
        """Return the newest saved state, on the devices of `state`, and where the run goes on.

        Without a checkpoint these are `state` itself and the first step.

        Raises:
          UserError: the checkpoint has another schema version, or other parameters than the model.
        """
        step = self._manager.latest_step()
        if step is None:
            return state, ResumePoint(data={"next_step": 0})
        arrays = {**state.params, **state.frozen}
        progress = read_progress(self._manager, step)
        check_parameter_names(self._manager, step, arrays)
        with readable(self.directory / str(step)):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    parameters=ocp.args.StandardRestore(restore_target(arrays)),
                    **({"ema": ocp.args.StandardRestore(restore_target(state.ema))} if state.ema else {}),
                    optimizer=ocp.args.StandardRestore(restore_target(state.opt_state)),
                ),
            )
        parameters = restored["parameters"]
        restored_state = dataclasses.replace(
            state,
            params={name: parameters[name] for name in state.params},
            frozen={name: parameters[name] for name in state.frozen},
            opt_state=restored["optimizer"],
            ema={name: restored["ema"][name] for name in state.ema},
            step=jax.device_put(jax.numpy.int32(progress["step"]), state.step.sharding),
        )
        num_nonfinite = progress.get("num_nonfinite", 0)
        return restored_state, ResumePoint(data=progress["data"], num_nonfinite=num_nonfinite)

    def close(self) -> None:
        """Wait for the last save.

        Raises:
          UserError: the save failed; older checkpoints are still there.
        """
        with self._explained("saved"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            self._manager.close()
        self._purge()

    def _check_writable(self) -> None:
        """Fail at once if no file can be made any more: Orbax would wait ten minutes."""
        if jax.process_index() == 0:
            probe = self.directory / "probe"
            probe.mkdir(exist_ok=True)
            probe.rmdir()

    def _purge(self) -> None:
        """Delete checkpoints that have lost their name; after a kill the next start does it."""
        folder = self.directory / _DELETED
        if jax.process_index() == 0 and folder.is_dir():
            for path in folder.iterdir():
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn errors of the storage into one that a user understands: Orbax raises many kinds."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if not is_of_storage(error):
                raise
            steps = ocp.utils.checkpoint_steps(self.directory) if self.directory.is_dir() else []
            left = (
                f"the checkpoint of step {max(steps)} is still good" if steps else "there is no earlier one"
            )
            raise (TemporaryError if is_temporary(error) else UserError)(
                f"a checkpoint could not be {what} in {self.directory} ({first_line(error)}); {left}. Look "
                "at the space and the permissions there, then start the same command again."
            ) from error
