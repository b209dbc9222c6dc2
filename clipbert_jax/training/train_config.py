"""The settings of a training: how long, in what portions, what is kept."""

from __future__ import annotations

import dataclasses

from clipbert_jax.models.remat import Remat
from clipbert_jax.training.step import Accumulation


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in what portions, and what is kept."""

    num_steps: int = 1000
    """Optimizer updates; 0 where epochs decide."""
    num_epochs: float = 0.0
    """Passes over the examples of the data, which then decide the number of steps."""
    batch_size: int = 16
    """Videos in one update, over all devices and accumulation steps."""
    num_accumulation_steps: int = 1
    """Parts that a batch is processed in, to save memory."""
    accumulation: Accumulation = "mean"
    """`mean`: the parts are as the whole batch. `sum`: their gradients are added, as in the original."""
    remat: Remat = "none"
    """What the backward pass computes again to save memory: `full`, each residual block and each layer of the
    fusion from its input; `dots`, of the fusion, all but products with weights. Changes rounding alone."""
    clips_per_pass: int = 0
    """Clips of each video that the model sees at once, to save memory: must divide data.num_clips; 0 for all.
    The passes are computed twice, and draw dropout otherwise than one pass would."""
    ema_decay: float = 0.0
    """Of a moving average of the parameters, such as 0.999, which validation and evaluation use in their
    place; 0 keeps none."""
    frozen_parts: tuple[str, ...] = ()
    """Beginnings of the names of parameters that are not trained, such as pixel_encoder/ text_encoder/."""
    seed: int = 0
    """Of initial parameters, data order, clip sampling and dropout."""
    log_every_steps: int = 10
    save_every_steps: int = 500
    num_kept_checkpoints: int = 2
    """The newest ones; the best on validation is kept too."""
    num_validations: int = 0
    """Evaluations on the validation split, evenly spread over training, each with a checkpoint."""
    num_validation_clips: int = 4
    """Clips per video in them."""
    early_stop_validations: int = 0
    """Stop after so many validations without a new best; 0 goes on to the last step."""
