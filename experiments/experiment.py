"""An experiment: everything that decides a result, in one frozen dataclass that is saved with each run."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.config_json import config_from_json, config_to_json
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import HeadConfig
from clipbert_jax.models.model_def import ModelDef, Parameters, split_model
from clipbert_jax.tasks.task import Task
from clipbert_jax.training.logging_config import LoggingConfig
from clipbert_jax.training.optimizer import OptimizerConfig
from clipbert_jax.training.sharding import MeshConfig
from clipbert_jax.training.train_config import TrainConfig
from data_pipelines.data_config import DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where the first weights come from, if they are not drawn at random."""

    model: str | None = None
    """A run, a model directory, or a name of one, with the same vocabulary; or a checkpoint file of the
    original. A head of another kind, or for other answers, starts anew."""
    pixel_encoder: str | None = None
    """File of ResNet-50 weights (grid-feat-vqa, detectron2, torchvision) for the pixel encoder; or a whole
    model, of which that part is taken: a checkpoint of the original, a run, a model directory or a name."""
    transformer: str | None = None
    """File of BERT weights (Hugging Face) for the text encoder and the fusion; or any of the others too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained, on what, and how. Every field is an option of `clipbert train`."""

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
        """What results call the task."""
        return self.task.name


def make_model(experiment: Experiment) -> ClipBert:
    """Return the experiment's model, freshly initialised from its seed."""
    return ClipBert(experiment.model, experiment.task.head, rngs=nnx.Rngs(experiment.train.seed))


def model_shapes(experiment: Experiment) -> tuple[ModelDef, Parameters, Parameters]:
    """Return model_def, trainable and frozen arrays of the model as shapes; takes seconds, once."""
    return _shapes(experiment.model, experiment.task.head)


@functools.lru_cache(maxsize=1)
def _shapes(config: ClipBertConfig, head: HeadConfig) -> tuple[ModelDef, Parameters, Parameters]:
    return split_model(nnx.eval_shape(lambda: ClipBert(config, head, rngs=nnx.Rngs(0))))


# These change how a run is watched, fed or stored, or a number by no more than another device would: they may
# differ when it goes on. (`train.clips_per_pass` may not, as the draws of dropout depend on it.)
# (Paths may: what the files there hold is compared by `resolve.data_sha256`. Of a mixture's entries the first
# part is the path, the second the weight.)
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


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as JSON values."""
    return config_to_json(experiment)


def from_json(values: dict[str, Any], source: Path) -> Experiment:
    """Return the experiment that `to_json` wrote; `source` is named in errors.

    Raises:
      UserError: an unknown, missing or ill-typed field.
    """
    return config_from_json(values, Experiment, source)
