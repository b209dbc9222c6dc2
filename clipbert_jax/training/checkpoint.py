"""Checkpoints: parameters, optimizer state, step, data position and the resolved config, by Orbax.

    WORKDIR/checkpoints/STEP/
        parameters   flat name -> array, trained and frozen
        ema          flat name -> moving average of a trained array; only if the training keeps them
        optimizer    the state of the optimizer
        progress     JSON: schema version, step, position in the data, how the guards stand
        config       JSON: the resolved config of the run

A checkpoint appears under its name only when it is complete, and loses it before anything of it is deleted,
so that a process may be killed at any moment. Each device writes and reads what it has: a run may go on with
another number of devices or processes, or another mesh.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import preservation_policy

from clipbert_jax.errors import TemporaryError, UserError, is_temporary
from clipbert_jax.models.skeleton import Parameters
from clipbert_jax.training.lost_process import is_of_lost_process
from clipbert_jax.training.step import TrainState
from clipbert_jax.training.validation import ValidationLog
from clipbert_jax.weights.flat import WeightsMismatchError, check_names_and_shapes

WhichStep = int | Literal["best", "newest"] | None
"""A checkpoint: of a step, the best on validation, the newest; None stands for the best if there is one."""

SCHEMA_VERSION = 1
"""Version of the flat names and of the items; raised when a reader of old files needs to know."""


class _KeepBest(preservation_policy.PreservationPolicy):
    """Keeps the checkpoint that validation found best so far."""

    best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return [checkpoint.step == self.best_step for checkpoint in checkpoints]


_DELETED = "deleted"
"""Where checkpoints are moved to before they are deleted."""

_SLOW_SECONDS = 5.0
"""More waiting for the save before is worth a line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, besides its arrays; stored with each checkpoint."""

    data: dict[str, Any]
    """Position in the data."""
    num_nonfinite: int = 0
    """Steps without finite gradients, up to now and in a row."""


class _Manager(ocp.CheckpointManager):
    """Leaves preemption notices to the loop.

    Processes agree on a moment by a number that each counts up. Orbax would count steps where
    `interruption.py` counts its looks, and with two counters they agree on a moment that never comes.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpointer:
    """Saves and restores the train state of one run; keeps the newest few, and the best on validation."""

    def __init__(
        self,
        workdir: Path,
        *,
        config: Mapping[str, Any],
        num_kept: int = 2,
        log: Callable[[str], None] = print,
    ) -> None:
        self._keep_best = _KeepBest()
        policies = [preservation_policy.LatestN(num_kept), self._keep_best]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            create=True,
            cleanup_tmp_directories=True,  # what a killed process began
            todelete_subdir=_DELETED,
        )
        self.directory = workdir.resolve() / "checkpoints"
        self._config = dict(config)
        self._log = log
        with self._explained("opened"):
            self._manager = _Manager(self.directory, options=options, item_handlers=_handlers())
        self._purge()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: Progress, *, best_step: int | None) -> None:
        """Save asynchronously, and keep the checkpoint of `best_step` too.

        Raises:
          UserError: this save, or the one before, could not be written; older checkpoints are still there.
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
                f"step {step}: training waited {waited:.0f} s for the checkpoint before to be written, as "
                f"the storage of {self.directory} is slow; --train.save-every-steps saves less often"
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

    def check(self) -> None:
        """Raise at once what has ended a save that runs beside the training; costs nothing.

        Raises:
          UserError: it could not be written; older checkpoints are still there.
        """
        with self._explained("saved"):
            self._manager.check_for_errors()

    def restore(self, state: TrainState) -> tuple[TrainState, Progress]:
        """Return the newest saved state, placed as `state`, and how far the run is.

        Raises:
          UserError: the checkpoint has another schema version, or other parameters than the model.
        """
        step = self.latest_step
        assert step is not None, "look at latest_step first"
        arrays = {**state.params, **state.frozen}
        progress = _read_progress(self._manager, step)
        _check_names(self._manager, step, arrays)
        with _readable(self.directory / str(step)):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    parameters=ocp.args.StandardRestore(_target(arrays)),
                    **({"ema": ocp.args.StandardRestore(_target(state.ema))} if state.ema else {}),
                    optimizer=ocp.args.StandardRestore(_target(state.opt_state)),
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
        return restored_state, Progress(data=progress["data"], num_nonfinite=num_nonfinite)

    def close(self) -> None:
        """Wait for the last save.

        Raises:
          UserError: it could not be written; older checkpoints are still there.
        """
        with self._explained("saved"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            self._manager.close()
        self._purge()

    def _check_writable(self) -> None:
        """Fail at once where nothing can be made any more: Orbax would wait ten minutes for itself."""
        if jax.process_index() == 0:
            probe = self.directory / "probe"
            probe.mkdir(exist_ok=True)
            probe.rmdir()

    def _purge(self) -> None:
        """Delete what has lost its name; a kill meanwhile leaves it to the next start."""
        folder = self.directory / _DELETED
        if jax.process_index() == 0 and folder.is_dir():
            for path in folder.iterdir():
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn what storage says into what it means: Orbax and TensorStore raise errors of many kinds."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if not _is_of_storage(error):
                raise
            steps = ocp.utils.checkpoint_steps(self.directory) if self.directory.is_dir() else []
            left = f"the checkpoint of step {max(steps)} is still good" if steps else "there is none yet"
            raise (TemporaryError if is_temporary(error) else UserError)(
                f"a checkpoint could not be {what} in {self.directory} ({_first_line(error)}); {left}. Look "
                "at the space and the permissions there; the same command then goes on."
            ) from error


def _is_of_storage(error: BaseException) -> bool:
    """Tell whether an error is about files, and not another process that is gone or a full device."""
    return not is_of_lost_process(error) and "RESOURCE_EXHAUSTED" not in str(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn an error of reading into one that names the checkpoint."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, LookupError, TypeError) as error:
        if not _is_of_storage(error) or is_temporary(error):
            raise
        raise UserError(
            f"the checkpoint {path} cannot be read ({_first_line(error)}): if its files are damaged, delete "
            "that directory, and the run goes on from the checkpoint before"
        ) from error


def has_checkpoint(workdir: Path) -> bool:
    """Return whether a run has a complete checkpoint, and so goes on from there."""
    directory = workdir.resolve() / "checkpoints"
    return directory.is_dir() and bool(ocp.utils.checkpoint_steps(directory))


class SavedCheckpoint:
    """One checkpoint of a run, to be read on any number of devices of any kind."""

    def __init__(self, workdir: Path, *, step: WhichStep = None) -> None:
        """Find the checkpoint of `step`; by default the best on validation, the newest if there was none.

        Raises:
          UserError: there is none, or another version wrote it.
        """
        self._directory = workdir.resolve() / "checkpoints"
        if not self._directory.is_dir():
            raise UserError(f"{workdir} holds no checkpoints: give the --workdir of a `clipbert train` run.")
        with self._open() as manager:
            steps = sorted(manager.all_steps())
            if not steps:
                raise UserError(f"{self._directory} holds no complete checkpoint yet: train longer first.")
            self.step = self._find(manager, steps, step)
            if self.step not in steps:
                raise UserError(f"{self._directory} holds no checkpoint of step {self.step}; it has {steps}.")
            _read_progress(manager, self.step)
            config = ocp.args.Composite(config=ocp.args.JsonRestore())
            with _readable(self._directory / str(self.step)):
                self.config: dict[str, Any] = manager.restore(self.step, args=config)["config"]
                """The resolved config that it was trained with."""
        self.has_ema = (self._directory / str(self.step) / "ema").is_dir()
        """Whether `load_parameters` returns moving averages in the place of trained parameters."""

    def _find(self, manager: ocp.CheckpointManager, steps: Sequence[int], step: WhichStep) -> int:
        if isinstance(step, int):
            return step
        if step == "newest":
            return steps[-1]
        best_step = ValidationLog(self._directory.parent).course(steps[-1]).best_step
        if best_step is None and step == "best":
            raise UserError(
                f"{self._directory} has no best checkpoint, as the run was never validated: leave --step "
                "out, or train with --train.num-validations"
            )
        return steps[-1] if best_step is None else best_step

    def load_parameters(self, expected: Parameters) -> Parameters:
        """Return the parameters by flat name, on one device.

        Args:
          expected: arrays or shapes that the model needs; names and shapes must agree exactly.

        Raises:
          UserError: they do not.
        """
        with self._open() as manager:
            _check_names(manager, self.step, expected)
            target = _target(expected, SingleDeviceSharding(jax.local_devices()[0]))
            items = {"parameters": ocp.args.StandardRestore(target)}
            with _readable(self._directory / str(self.step)):
                if self.has_ema:
                    averaged = manager.item_metadata(self.step)["ema"]
                    items["ema"] = ocp.args.StandardRestore({name: target[name] for name in averaged})
                restored = manager.restore(self.step, args=ocp.args.Composite(**items))
        parameters = {**restored["parameters"], **(restored["ema"] if self.has_ema else {})}
        return {name: parameters[name] for name in expected}

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self._directory, item_handlers=_handlers())


def _handlers() -> dict[str, Any]:
    return {
        "parameters": ocp.StandardCheckpointHandler(),
        "ema": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
    }


def _target(tree: Any, sharding: SingleDeviceSharding | None = None) -> Any:
    """Return shapes, types and places of arrays: the given one, or that of each array now.

    Without a place Orbax wants the devices of the save.
    """
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree
    )


def _read_progress(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    restore = ocp.args.Composite(progress=ocp.args.JsonRestore())
    with _readable(Path(manager.directory) / str(step)):
        progress = manager.restore(step, args=restore)["progress"]
    version = progress.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"The checkpoint {manager.directory / str(step)} has schema version {version}, this program "
            f"reads {SCHEMA_VERSION}: use the version of clipbert_jax that wrote it."
        )
    return progress


def _check_names(manager: ocp.CheckpointManager, step: int, expected: Parameters) -> None:
    with _readable(Path(manager.directory) / str(step)):
        saved = manager.item_metadata(step)["parameters"]
        if saved is None:
            raise LookupError("the list of its parameters is missing")
        shapes = {name: tuple(array.shape) for name, array in saved.items()}
    try:
        check_names_and_shapes({name: tuple(array.shape) for name, array in expected.items()}, shapes)
    except WeightsMismatchError as error:
        raise UserError(
            f"The checkpoint {manager.directory / str(step)} does not fit the model of its config: {error}"
        ) from error
