"""Metrics at Weights & Biases, for those who ask for it: an extra that is imported here alone.

Beside `metrics_writer`. Steps that run again after a kill replace nothing there: they are more points of the
same `step`, which is the horizontal axis of all metrics.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError


def import_wandb() -> Any:
    """Return the package.

    Raises:
      UserError: it is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        wandb = None
    if not hasattr(wandb, "init"):  # a folder of that name, as W&B itself makes them, can be imported too
        raise UserError(
            "--logging.wandb needs the package wandb: pip install 'clipbert_jax[wandb]', or leave it out"
        )
    return wandb


class WandbRun:
    """One run there for one run directory, however often it is started."""

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]) -> None:
        """Begin, or go on.

        Raises:
          UserError: the package is missing, or W&B refuses, such as without an account.
        """
        wandb = import_wandb()
        try:
            self._run = wandb.init(
                project=project,
                dir=str(workdir),
                id=_run_id(workdir),
                name=workdir.resolve().name,
                config=dict(config),
                resume="allow",
            )
        except wandb.Error as error:
            raise UserError(
                f"Weights & Biases does not take the run ({error}): log in with `wandb login`, set "
                f"WANDB_MODE=offline, or leave --logging.wandb out"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def write(self, record: Mapping[str, Any]) -> None:
        """Send one record."""
        self._run.log(dict(record))

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def _run_id(workdir: Path) -> str:
    """Return the id of a run directory, which stays with it."""
    path = workdir / "wandb_id.txt"
    if not path.exists():
        path.write_text(secrets.token_hex(4) + "\n")
    return path.read_text().strip()
