"""Metrics at Weights & Biases, on request; the reporter calls it beside `metrics_writer`.

Steps that are made again after a kill do not replace points there: they add points at the same `step`, which
is the horizontal axis of all metrics.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipbert_jax.errors import UserError


def import_wandb() -> Any:
    """Return the wandb package.

    Raises:
      UserError: it is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        wandb = None
    if not hasattr(wandb, "init"):  # a folder of that name, which W&B itself makes, can be imported too
        raise UserError(
            "--logging.wandb needs the package wandb: pip install 'clipbert_jax[wandb]', or omit the option"
        )
    return wandb


class WandbRun:
    """One W&B run for a run directory, however often that is started."""

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]) -> None:
        """Begin the W&B run, or continue it.

        Raises:
          UserError: the package is missing, or W&B refuses the run.
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
                f"Weights & Biases refuses the run ({error}): log in with `wandb login`, set "
                f"WANDB_MODE=offline, or omit --logging.wandb"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def write(self, record: Mapping[str, Any]) -> None:
        """Send one record."""
        self._run.log(dict(record))

    def close(self) -> None:
        """Send the rest."""
        self._run.finish()


def _run_id(workdir: Path) -> str:
    """Return the id of a run directory, which never changes."""
    path = workdir / "wandb_id.txt"
    if not path.exists():
        path.write_text(secrets.token_hex(4) + "\n")
    return path.read_text().strip()
