"""`clipbert train`: the experiment, the run directory, and what is traced."""

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
    """Train an experiment, or continue the run that is in the run directory."""

    experiment: Annotated[ExperimentChoice, arg(name="")]
    """What to train."""
    workdir: Path
    """The run directory: config, checkpoints, metrics."""
    data_dir: Path | None = None
    """Short for --data.data-dir."""
    profile: bool = False
    """Take a trace of some steps into RUN/profile, for xprof, TensorBoard or Perfetto."""
    traced: Annotated[ProfileConfig, arg(name="profile")] = ProfileConfig()
    """Any of these options takes a trace too."""

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
            raise UserError("--profile.first-step and --profile.num-steps are numbers from 1 on")
        return self.traced if self.profile or self.traced != ProfileConfig() else None
