"""A trained model with its experiment and a scorer, for all commands that use one: wraps `load`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from clipbert_jax.errors import UserError
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import ClipBert, model_shapes
from clipbert_jax.pretrained.directory import CONFIG
from clipbert_jax.pretrained.load import load
from clipbert_jax.training.run_directory import list_differences
from clipbert_jax.training.saved_checkpoint import WhichStep
from data_pipelines.tokenizer import Tokenizer
from experiments.evaluators.evaluator import TextOptions
from experiments.experiment import FREE_FIELDS, Experiment, from_json
from experiments.runs.resolve import DATA_SHA256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model with everything that its use needs."""

    workdir: Path
    experiment: Experiment
    step: int
    """Step of the checkpoint; 0 for a model directory, which has none."""
    scorer: Scorer
    tokenizer: Tokenizer
    answers: tuple[str, ...]
    """Meanings of the head's outputs; empty for tasks without an answer vocabulary."""
    has_ema: bool = False
    """Whether the scorer has moving averages instead of the trained parameters."""

    @property
    def text_options(self) -> TextOptions:
        """Settings that turn texts into ids."""
        return TextOptions(
            tokenizer=self.tokenizer,
            max_length=self.experiment.data.max_text_length,
            answers=self.answers,
        )

    def model(self) -> ClipBert:
        """Return the model as a Flax NNX module, with attention and hidden states to look at."""
        shapes = model_shapes(self.experiment.model, self.experiment.task.head)[0]
        return shapes.merge({name: jnp.asarray(array) for name, array in self.scorer.parameters.items()})

    def encode_texts(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
        """Return ids and mask [n l] of texts."""
        return self.tokenizer.encode(list(texts), self.experiment.data.max_text_length)


def load_run(workdir: Path, *, step: WhichStep = None) -> Run:
    """Load a trained model by `clipbert_jax.load`, with its experiment, for use on all devices.

    Args:
      workdir: run directory, model directory or registered name.
      step: checkpoint of a run; default: the best on validation, or else the newest.

    Raises:
      UserError: as `load`, or the run's config differs from the checkpoint's.
    """
    model = load(workdir, step=step)
    source, config = model.folder / CONFIG, dict(model.current_values)
    if differences := list_differences(model.values, config, free=FREE_FIELDS):
        raise UserError(
            f"{source} is not the config that checkpoint {model.step} was trained with "
            f"({'; '.join(differences)}): restore that file."
        )
    config.pop(DATA_SHA256, None)
    return Run(
        workdir=model.folder,
        experiment=from_json(config, source),
        step=model.step,
        scorer=Scorer(model.model_def, model.parameters),
        tokenizer=Tokenizer(model.inputs.tokens, model.inputs.letter_rules),
        answers=model.answers,
        has_ema=model.has_ema,
    )
