"""An experiment: one frozen dataclass with everything that decides a result; each run saves it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.config_json import config_from_json, config_to_json
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.tasks.task import Task
from clipbert_jax.training.logging_config import LoggingConfig
from clipbert_jax.training.optimizer import OptimizerConfig
from clipbert_jax.training.sharding import MeshConfig
from clipbert_jax.training.train_config import TrainConfig
from data_pipelines.data_config import DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Source of the initial weights; without one they are random."""

    model: str | None = None
    """Run, model directory or name, or checkpoint of the original, with the same vocabulary.
    A head for another task or other answers starts with random weights."""
    pixel_encoder: str | None = None
    """File of ResNet-50 weights (grid-feat-vqa, detectron2, torchvision), or one of the models above."""
    transformer: str | None = None
    """File of BERT weights (Hugging Face) for text encoder and fusion, or one of the models above."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Model, task, data and training. Each field is an option of `clipbert train`."""

    model: ClipBertConfig
    task: Task
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    init: InitConfig = InitConfig()
    logging: LoggingConfig = LoggingConfig()
    mesh: MeshConfig = MeshConfig()

    @property
    def task_name(self) -> str:
        """Name of the task in results."""
        return self.task.name


def make_model(experiment: Experiment) -> ClipBert:
    """Return the experiment's model, freshly initialised from its seed."""
    return ClipBert(experiment.model, experiment.task.head, rngs=nnx.Rngs(experiment.train.seed))


FREE_FIELDS = frozenset(
    {
        "data.data_dir",
        "data.mixture.*.0",
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
        "train.remat",
        "logging.wandb",
        "mesh.fsdp",
        "mesh.tensor",
    }
)
"""Fields that may change when a run continues: they change results by no more than another device would.

Paths are among them, because `resolve.data_sha256` compares what the files hold. `train.clips_per_pass` is
not, because it changes the draws of dropout.
"""


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as JSON values."""
    return config_to_json(experiment)


def from_json(values: dict[str, Any], source: Path) -> Experiment:
    """Return the experiment that `to_json` wrote; `source` is named in errors.

    Raises:
      UserError: an unknown, missing or ill-typed field.
    """
    return config_from_json(values, Experiment, source)
