"""Where a training is logged besides its run directory, and which of its steps are profiled."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where metrics go, besides metrics.jsonl and the TensorBoard files of the run directory."""

    wandb: str | None = None
    """Project of Weights & Biases; WANDB_MODE=offline keeps all on this machine. Needs the extra `wandb`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Which steps a trace is taken of."""

    first_step: int | None = None
    """The first step of the trace; by default the fourth after the start, when all is compiled and warm."""
    num_steps: int = 3
    """Steps in the trace: a few, as it grows by megabytes with each."""
