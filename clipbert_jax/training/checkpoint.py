"""Checkpoints: parameters, optimizer state, step, data position and the resolved config, by Orbax.

    WORKDIR/checkpoints/STEP/
        parameters   flat name -> array, trained and frozen
        optimizer    the state of the optimizer
        progress     JSON: schema version, step, position in the data, how validation went
        config       JSON: the resolved config of the run

A checkpoint appears under its name only when it is complete.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import preservation_policy

from clipbert_jax.errors import UserError
from clipbert_jax.models.skeleton import Parameters
from clipbert_jax.training.sharding import replicated
from clipbert_jax.training.step import TrainState
from clipbert_jax.training.validation import ValidationCourse
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


class Checkpointer:
    """Saves and restores the train state of one run; keeps the newest few, and the best on validation."""

    def __init__(self, workdir: Path, *, config: Mapping[str, Any], num_kept: int = 2) -> None:
        self._keep_best = _KeepBest()
        policies = [preservation_policy.LatestN(num_kept), self._keep_best]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies), create=True
        )
        self.directory = workdir.resolve() / "checkpoints"
        self._config = dict(config)
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=_handlers())

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data_state: dict[str, Any], course: ValidationCourse) -> None:
        """Save asynchronously; an error of an earlier save is raised here."""
        self._manager.check_for_errors()
        self._keep_best.best_step = course.best_step
        step = int(state.step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                parameters=ocp.args.StandardSave({**state.params, **state.frozen}),
                optimizer=ocp.args.StandardSave(state.opt_state),
                progress=ocp.args.JsonSave(
                    {
                        "schema_version": SCHEMA_VERSION,
                        "step": step,
                        "data": data_state,
                        "validation": dataclasses.asdict(course),
                    }
                ),
                config=ocp.args.JsonSave(self._config),
            ),
        )

    def restore(self, state: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any], ValidationCourse]:
        """Return the newest saved state, placed as `state`, the data position, and how validation went.

        Raises:
          UserError: the checkpoint has another schema version, or other parameters than the model.
        """
        step = self.latest_step
        assert step is not None, "look at latest_step first"
        arrays = {**state.params, **state.frozen}
        progress = _read_progress(self._manager, step)
        _check_names(self._manager, step, arrays)
        sharding = replicated(mesh)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                parameters=ocp.args.StandardRestore(_target(arrays, sharding)),
                optimizer=ocp.args.StandardRestore(_target(state.opt_state, sharding)),
            ),
        )
        parameters = restored["parameters"]
        restored_state = dataclasses.replace(
            state,
            params={name: parameters[name] for name in state.params},
            frozen={name: parameters[name] for name in state.frozen},
            opt_state=restored["optimizer"],
            step=jax.device_put(jax.numpy.int32(progress["step"]), sharding),
        )
        course = ValidationCourse(**progress.get("validation", {}))
        return restored_state, progress["data"], course

    def close(self) -> None:
        """Wait for the last save; its error is raised here."""
        self._manager.close()


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
            self.config: dict[str, Any] = manager.restore(self.step, args=config)["config"]
            """The resolved config that it was trained with."""

    def _find(self, manager: ocp.CheckpointManager, steps: Sequence[int], step: WhichStep) -> int:
        if isinstance(step, int):
            return step
        if step == "newest":
            return steps[-1]
        best_step = _read_progress(manager, steps[-1]).get("validation", {}).get("best_step")
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
            restore = ocp.args.Composite(parameters=ocp.args.StandardRestore(target))
            parameters = manager.restore(self.step, args=restore)["parameters"]
        return {name: parameters[name] for name in expected}

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self._directory, item_handlers=_handlers())


def _handlers() -> dict[str, Any]:
    return {
        "parameters": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
    }


def _target(tree: Any, sharding: Sharding) -> Any:
    """Return shapes, types and places of arrays; without a place Orbax wants the devices of the save."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _read_progress(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    restore = ocp.args.Composite(progress=ocp.args.JsonRestore())
    progress = manager.restore(step, args=restore)["progress"]
    version = progress.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"The checkpoint {manager.directory / str(step)} has schema version {version}, this program "
            f"reads {SCHEMA_VERSION}: use the version of clipbert_jax that wrote it."
        )
    return progress


def _check_names(manager: ocp.CheckpointManager, step: int, expected: Parameters) -> None:
    saved = manager.item_metadata(step)["parameters"]
    try:
        check_names_and_shapes(
            {name: tuple(array.shape) for name, array in expected.items()},
            {name: tuple(array.shape) for name, array in saved.items()},
        )
    except WeightsMismatchError as error:
        raise UserError(
            f"The checkpoint {manager.directory / str(step)} does not fit the model of its config: {error}"
        ) from error
