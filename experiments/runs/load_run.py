"""A trained model with its task and texts, loaded from a run or model directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.pretrained.checks import InputsConfig
from clipbert_jax.pretrained.directory import CONFIG, has_weights
from clipbert_jax.pretrained.directory import read_config as read_model_config
from clipbert_jax.pretrained.load import find, read_checked
from clipbert_jax.training.run_directory import (
    list_differences,
    read_config,
)
from clipbert_jax.training.saved_checkpoint import SavedCheckpoint, WhichStep
from data_pipelines.tokenizer import Tokenizer
from experiments.evaluators.evaluator import TextOptions
from experiments.experiment import FREE_FIELDS, Experiment, from_json
from experiments.runs.resolve import (
    DATA_SHA256,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model with all that is needed to use it."""

    workdir: Path
    experiment: Experiment
    step: int
    """The checkpoint's step; 0 for a model directory, which has none."""
    scorer: Scorer
    tokenizer: Tokenizer
    answers: tuple[str, ...]
    """What the outputs of the head mean, if it answers from a vocabulary."""
    has_ema: bool = False
    """Whether the scorer has moving averages in the place of trained parameters."""

    @property
    def text_options(self) -> TextOptions:
        """How texts become ids."""
        return TextOptions(
            tokenizer=self.tokenizer,
            max_length=self.experiment.data.max_text_length,
            answers=self.answers,
        )

    def encode_texts(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
        """Return ids and mask [n l] of texts."""
        return self.tokenizer.encode(list(texts), self.experiment.data.max_text_length)


def load_run(workdir: Path, *, step: WhichStep = None) -> Run:
    """Load a checkpoint of a run, by default the best on validation or else the newest, on one device.

    Raises:
      UserError: no run there, no such checkpoint, or one of another config than the run's.
    """
    if not workdir.exists():
        workdir = find(workdir)
    if has_weights(workdir):
        if step is not None:
            raise UserError(f"{workdir} is a model, not a run: it has no checkpoints; leave --step out")
        return _read_run(workdir, read_model_config(workdir), None)
    config = read_config(workdir)
    checkpoint = SavedCheckpoint(workdir, step=step)
    differences = list_differences(checkpoint.config, config, free=FREE_FIELDS)
    if differences:
        raise UserError(
            f"{workdir / CONFIG} is not the config that checkpoint {checkpoint.step} was trained with "
            f"({'; '.join(differences)}): restore that file."
        )
    return _read_run(workdir, config, checkpoint)


def _read_run(folder: Path, config: dict[str, Any], checkpoint: SavedCheckpoint | None) -> Run:
    """Return what a run or, without a checkpoint, a model directory holds, after a look at its files."""
    config.pop(DATA_SHA256, None)
    experiment = from_json(config, folder / CONFIG)
    inputs = InputsConfig.of(experiment.data)
    vocabulary, model_def, parameters = read_checked(
        folder, experiment.model, experiment.task, inputs, checkpoint
    )
    return Run(
        workdir=folder,
        experiment=experiment,
        step=checkpoint.step if checkpoint else 0,
        scorer=Scorer(model_def, parameters),
        tokenizer=Tokenizer(vocabulary.tokens, is_lower_case=vocabulary.is_lower_case),
        answers=vocabulary.answers,
        has_ema=checkpoint is not None and checkpoint.has_ema,
    )
