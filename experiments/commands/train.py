"""`clipbert train`: its options and its help."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from clipbert_jax.errors import UserError
from clipbert_jax.training.logging_config import ProfileConfig
from experiments.commands.experiment_choice import ExperimentChoice
from experiments.runs.train_run import train_run
from experiments.runtime.compilation_cache import use_compilation_cache
from experiments.runtime.processes import joined_processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train an experiment, or continue the run in the run directory."""

    experiment: Annotated[ExperimentChoice, arg(name="")]
    """The experiment to train."""
    workdir: Path
    """Run directory, which receives config, checkpoints and metrics."""
    data_dir: Path | None = None
    """Short form of --data.data-dir."""
    profile: bool = False
    """Trace some steps into RUN/profile, for xprof, TensorBoard or Perfetto."""
    traced: Annotated[ProfileConfig, arg(name="profile")] = ProfileConfig()
    """Steps to trace; each of these options traces some steps too."""

    def run(self) -> None:
        """Train."""
        experiment = self.experiment
        if self.data_dir is not None:
            data = dataclasses.replace(experiment.data, data_dir=str(self.data_dir))
            experiment = dataclasses.replace(experiment, data=data)
        with joined_processes(has_notices=True):
            use_compilation_cache()
            train_run(experiment, self.workdir, profile=self._profile_config())

    def _profile_config(self) -> ProfileConfig | None:
        numbers = (self.traced.first_step, self.traced.num_steps)
        if any(number is not None and number < 1 for number in numbers):
            raise UserError("--profile.first-step and --profile.num-steps must be at least 1")
        return self.traced if self.profile or self.traced != ProfileConfig() else None
