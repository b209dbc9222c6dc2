"""The settings of one training run, as `loop.train` takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipbert_jax.training.logging_config import LoggingConfig, ProfileConfig
from clipbert_jax.training.optimizer import OptimizerConfig
from clipbert_jax.training.train_config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of one training run."""

    train: TrainConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    logging: LoggingConfig = LoggingConfig()
    profile: ProfileConfig | None = None
    """Steps to take a trace of."""
    resolved: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Config of the whole run as JSON values; stored with each checkpoint."""
