"""Settings of logging and profiling, which change no result."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Places for metrics, besides the files of the run directory."""

    wandb: str | None = None
    """Project at Weights & Biases; WANDB_MODE=offline sends nothing. Needs the extra `wandb`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Steps to trace."""

    first_step: int | None = None
    """First step of the trace; default: the fourth after the start, when all is compiled and warm."""
    num_steps: int = 3
    """Number of steps in the trace, which grows by megabytes with each."""
