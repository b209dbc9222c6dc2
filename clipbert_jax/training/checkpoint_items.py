"""The items of a checkpoint and the errors of reading it; `checkpoint` and `saved_checkpoint` use them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from clipbert_jax.errors import TemporaryError, UserError, explain_full_device, is_temporary
from clipbert_jax.models.model_def import Parameters
from clipbert_jax.training.coordination import is_of_lost_process
from clipbert_jax.weights.flat import WeightsMismatchError, check_names_and_shapes

_LOST_PIECE = "Encountered error while reading array index"
"""Begin of Orbax's error for a file of an array, whose lines show positions and addresses."""

SCHEMA_VERSION = 1
"""Version of the flat names and of the items; increase it when readers must tell old files apart."""


def item_handlers() -> dict[str, Any]:
    """Return the handler that reads and writes each item of a checkpoint, by name."""
    return {
        "parameters": ocp.StandardCheckpointHandler(),
        "ema": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
    }


def restore_target(tree: Any, sharding: SingleDeviceSharding | None = None) -> Any:
    """Return shapes, types and shardings for Orbax: the given sharding, or the present one of each array.

    Without a sharding Orbax wants the devices of the save.
    """
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree
    )


def read_progress(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Return the progress of a run at a checkpoint.

    Raises:
      UserError: it cannot be read, or another version has written it.
    """
    restore = ocp.args.Composite(progress=ocp.args.JsonRestore())
    with readable(Path(manager.directory) / str(step)):
        progress = manager.restore(step, args=restore)["progress"]
    version = progress.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"The checkpoint {manager.directory / str(step)} has schema version {version}, this program "
            f"reads {SCHEMA_VERSION}: use the version of clipbert_jax that wrote it."
        )
    return progress


def check_parameter_names(manager: ocp.CheckpointManager, step: int, expected: Parameters) -> None:
    """Compare the parameters of a checkpoint with those of a model by name and shape, without reading them.

    Raises:
      UserError: they differ, or their list cannot be read.
    """
    with readable(Path(manager.directory) / str(step)):
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


def is_of_storage(error: BaseException) -> bool:
    """Tell whether an error is about files, rather than a lost process or a full device."""
    return not is_of_lost_process(error) and explain_full_device(error) is None


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or its class if it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "a piece of an array is lost" if lines[0].startswith(_LOST_PIECE) else lines[0][:300]


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an error of reading into one that names the checkpoint."""
    try:
        yield
    except Exception as error:  # Orbax raises bare ones for a lost piece of an array
        if isinstance(error, UserError) or not is_of_storage(error):
            raise
        if is_temporary(error):
            raise TemporaryError(
                f"the checkpoint {path} cannot be read now ({first_line(error)}): start the same command "
                "again"
            ) from error
        raise UserError(
            f"the checkpoint {path} cannot be read ({first_line(error)}): if its files are damaged, take "
            "another --step, or delete that directory, and the run goes on from the checkpoint before"
        ) from error
