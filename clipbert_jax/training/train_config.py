"""Settings of a training: how long it is, in what portions it computes, and what it keeps."""

from __future__ import annotations

import dataclasses
from typing import Literal

from clipbert_jax.config_checks import check_range, option_name
from clipbert_jax.errors import UserError
from clipbert_jax.models.remat import Remat


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long a training is, in what portions it computes, and what it keeps."""

    num_steps: int = 1000
    """Number of optimizer updates; 0 if num_epochs decides."""
    num_epochs: float = 0.0
    """Number of passes over the training examples; 0 if num_steps decides."""
    batch_size: int = 16
    """Number of videos in one update, over all devices and accumulation steps."""
    num_accumulation_steps: int = 1
    """Number of parts in which a batch is processed, to save memory."""
    accumulation: Literal["mean", "sum"] = "mean"
    """`mean`: the parts together equal the whole batch. `sum`: adds their gradients, as the original did."""
    remat: Remat = "none"
    """Layers that the backward pass computes again, to save memory; changes only rounding.
    `full`: each residual block and fusion layer. `dots`: these but for products with weights."""
    clips_per_pass: int = 0
    """Number of clips per video that the model sees at once, to save memory; 0 takes all.
    Must divide data.num_clips. Passes are computed twice, with other dropout than a single pass."""
    ema_decay: float = 0.0
    """Decay of a moving average of the parameters, such as 0.999; 0 keeps no average.
    Validation and evaluation use the average."""
    frozen_parts: tuple[str, ...] = ()
    """Prefixes of the names of parameters that are not trained, such as pixel_encoder/ text_encoder/."""
    seed: int = 0
    """Seed of initial parameters, data order, clip sampling and dropout."""
    log_every_steps: int = 10
    """Number of steps between two lines and records of metrics."""
    save_every_steps: int = 500
    """Number of steps between two checkpoints."""
    num_kept_checkpoints: int = 2
    """Number of newest checkpoints to keep; the best on validation is kept too."""
    num_validations: int = 0
    """Number of evaluations on the validation split, evenly spread over training; each has a checkpoint."""
    num_validation_clips: int = 4
    """Number of clips per video in these evaluations."""
    early_stop_validations: int = 0
    """Number of validations without a new best after which training stops; 0 trains to the last step."""


_LEAST = {
    "num_steps": 0,
    "num_epochs": 0,
    "batch_size": 1,
    "num_accumulation_steps": 1,
    "clips_per_pass": 0,
    "seed": 0,
    "log_every_steps": 1,
    "save_every_steps": 1,
    "num_kept_checkpoints": 1,
    "num_validations": 0,
    "num_validation_clips": 1,
    "early_stop_validations": 0,
}


def check_train_config(config: TrainConfig) -> None:
    """Refuse settings that cannot train.

    Raises:
      UserError: names the first such option.
    """
    for name, least in _LEAST.items():
        check_range(option_name("train", name), getattr(config, name), least)
    if config.num_steps and config.num_epochs:
        raise UserError(
            f"this experiment would train for {config.num_steps} steps and for {config.num_epochs:g} epochs: "
            "set --train.num-steps 0 to let epochs decide, or --train.num-epochs 0"
        )
    if not config.num_steps and not config.num_epochs:
        raise UserError("the length of the training is missing: give --train.num-steps or --train.num-epochs")
    if config.early_stop_validations and not config.num_validations:
        raise UserError("--train.early-stop-validations needs validations: give --train.num-validations too")
    if not 0 <= config.ema_decay < 1:
        raise UserError(f"--train.ema-decay must be at least 0 and below 1, not {config.ema_decay:g}")
