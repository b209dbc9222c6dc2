"""Checkpoints: parameters, optimizer state, step, data position and the resolved config, by Orbax.

A run directory holds

    config.json        the resolved config of the run
    checkpoints/STEP/  parameters (flat name -> array), optimizer, progress (JSON)

A checkpoint appears under its name only when it is complete.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from clipbert_jax.errors import UserError
from clipbert_jax.models.skeleton import Parameters
from clipbert_jax.training.sharding import replicated
from clipbert_jax.training.step import TrainState
from clipbert_jax.weights.flat import WeightsMismatchError, check_names_and_shapes

SCHEMA_VERSION = 1
"""Version of the flat names and of the items; raised when a reader of old files needs to know."""


class Checkpointer:
    """Saves and restores the train state of one run; keeps the newest few."""

    def __init__(self, workdir: Path, *, num_kept: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=num_kept, create=True)
        self.directory = workdir.resolve() / "checkpoints"
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Save asynchronously; an error of an earlier save is raised here."""
        self._manager.check_for_errors()
        progress = {
            "schema_version": SCHEMA_VERSION,
            "step": int(state.step),
            "data": data_state,
        }
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                parameters=ocp.args.StandardSave({**state.params, **state.frozen}),
                optimizer=ocp.args.StandardSave(state.opt_state),
                progress=ocp.args.JsonSave(progress),
            ),
        )

    def restore(self, state: TrainState, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
        """Return the newest saved state, shaped and placed as `state`, and the data position."""
        step = self.latest_step
        sharding = replicated(mesh)

        def target(tree: Any) -> Any:
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                parameters=ocp.args.StandardRestore(target({**state.params, **state.frozen})),
                optimizer=ocp.args.StandardRestore(target(state.opt_state)),
                progress=ocp.args.JsonRestore(),
            ),
        )
        _check_schema(restored["progress"], self.directory)
        arrays = restored["parameters"]
        return (
            dataclasses.replace(
                state,
                params={name: arrays[name] for name in state.params},
                frozen={name: arrays[name] for name in state.frozen},
                opt_state=restored["optimizer"],
                step=jax.device_put(jax.numpy.int32(restored["progress"]["step"]), sharding),
            ),
            restored["progress"]["data"],
        )

    def close(self) -> None:
        """Wait for the last save; its error is raised here."""
        self._manager.close()


def load_parameters(
    workdir: Path, expected: Parameters, *, step: int | None = None
) -> tuple[Parameters, int]:
    """Return the flat parameters of a run's checkpoint and its step (the newest by default).

    Args:
      workdir: the run directory.
      expected: arrays or shapes that the model needs; names and shapes must agree exactly.
      step: which checkpoint.

    Raises:
      UserError: no such checkpoint, or it holds other parameters than the model needs.
    """
    directory = workdir.resolve() / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"{workdir} holds no checkpoints: give the --workdir of a `clipbert train` run.")
    with ocp.CheckpointManager(directory) as manager:
        steps = sorted(manager.all_steps())
        if not steps:
            raise UserError(f"{directory} holds no complete checkpoint yet: train longer, then try again.")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise UserError(f"{directory} holds no checkpoint of step {step}; it has {steps}.")
        handlers = ocp.args.Composite(parameters=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore())
        restored = manager.restore(step, args=handlers)
    _check_schema(restored["progress"], directory)
    _check_names(restored["parameters"], expected, directory / str(step))
    return {name: restored["parameters"][name] for name in expected}, step


def _check_schema(progress: dict[str, Any], directory: Path) -> None:
    version = progress.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"The checkpoint in {directory} has schema version {version}, this program reads "
            f"{SCHEMA_VERSION}: use the version of clipbert_jax that wrote it."
        )


def _check_names(arrays: Parameters, expected: Parameters, path: Path) -> None:
    try:
        check_names_and_shapes(
            {name: tuple(array.shape) for name, array in expected.items()},
            {name: tuple(array.shape) for name, array in arrays.items()},
        )
    except WeightsMismatchError as error:
        raise UserError(
            f"The checkpoint {path} does not fit the model of its config.json, which must be the one it was "
            f"trained with: {error}"
        ) from error
