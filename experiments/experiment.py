"""An experiment: everything that decides a result, in one frozen dataclass that is saved with each run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cattrs
from cattrs import transform_error
from cattrs.errors import BaseValidationError

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.errors import UserError
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.loop import TrainConfig
from clipbert_jax.training.optimizer import OptimizerConfig
from data_pipelines.data_config import DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained, on what, and how. Every field is an option of `clipbert train`."""

    model: ClipBertConfig
    task: Retrieval
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig


# These change how a run is watched, fed or stored, but no number in it: they may differ when it goes on.
# (Paths may: what the files there hold is compared by `runs.data_sha256`.)
FREE_FIELDS = frozenset(
    {
        "data.data_dir",
        "data.vocab",
        "data.num_workers",
        "data.num_threads",
        "data.num_prefetch",
        "data.decode_timeout_seconds",
        "data.on_stuck",
        "data.worker_memory_gib",
        "train.log_every_steps",
        "train.save_every_steps",
        "train.num_kept_checkpoints",
    }
)

_converter = cattrs.Converter(forbid_extra_keys=True)


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as JSON values."""
    return _as_lists(_converter.unstructure(experiment))


def from_json(values: dict[str, Any], source: Path) -> Experiment:
    """Return the experiment that `to_json` wrote; `source` is named in errors.

    Raises:
      UserError: an unknown, missing or ill-typed field.
    """
    try:
        return _converter.structure(values, Experiment)
    except BaseValidationError as error:
        problems = "; ".join(transform_error(error, path="config"))
        raise UserError(
            f"{source} does not describe an experiment of this version ({problems}): use the version of "
            f"clipbert_jax that wrote it, or train again."
        ) from error


def _as_lists(value: Any) -> Any:
    """Turn tuples into lists, so that a config equals what is read back from its JSON."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value
