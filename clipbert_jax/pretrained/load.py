"""Loads trained models by path or name. Every command and notebook that takes a model comes through here.

    model = clipbert_jax.load("runs/demo")          # a run, a model directory, a registered name, a hub's id
    model.predict(frames, text_ids, text_mask)      # probabilities
    model.save("models/demo")

`data_pipelines.inputs` makes the frames and token ids, by `model.inputs`. Nothing in the files is executed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.config_json import config_from_json
from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBert, model_shapes
from clipbert_jax.models.heads import HeadConfig
from clipbert_jax.models.model_def import ModelDef, Parameters
from clipbert_jax.pretrained import directory as model_directory
from clipbert_jax.pretrained import registry as model_registry
from clipbert_jax.pretrained.checks import InputsConfig, check_model_files, inputs_from_json
from clipbert_jax.pretrained.directory import Vocabulary
from clipbert_jax.tasks.task import Task
from clipbert_jax.tokenizer_files import LetterRules
from clipbert_jax.training.saved_checkpoint import SavedCheckpoint, WhichStep
from clipbert_jax.weights.flat import not_finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs(InputsConfig):
    """Settings of a model's clips and texts, for `data_pipelines.inputs`."""

    tokens: tuple[str, ...]
    """Vocabulary; the id of a token is its place."""
    letter_rules: LetterRules
    """What becomes of the letters of a text, such as lower case."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A trained model with everything that its use depends on."""

    folder: Path
    """Run or model directory that it was read from."""
    config: ClipBertConfig
    task: Task
    inputs: Inputs
    parameters: Parameters
    """Trained and frozen weights by flat name."""
    answers: tuple[str, ...]
    """Meanings of the head's outputs; empty for tasks without an answer vocabulary."""
    values: Mapping[str, Any]
    """Whole config as JSON values, as the model was trained."""
    current_values: Mapping[str, Any]
    """Whole config as the file says now; a run's data, for example, may have been moved since."""
    step: int
    """Step of the checkpoint; 0 for a model directory, which has none."""
    has_ema: bool
    """Whether moving averages stand in the place of the trained parameters."""

    @property
    def origin(self) -> Mapping[str, str]:
        """Facts for the model card: what the model was read from."""
        step = {"step": str(self.step)} if self.step else {}
        averages = {"parameters are": "moving averages"} if self.has_ema else {}
        return {"source": self.folder.name, **step, **averages}

    def predict(
        self,
        frames: UInt8[np.ndarray, "*b k t h w 3"],
        text_ids: Int[np.ndarray, "*b n l"],
        text_mask: Bool[np.ndarray, "*b n l"],
    ) -> Float[np.ndarray, "*b n *answers"]:
        """Score texts against the clips of a video, or of each of a batch of videos.

        Returns:
          Predictions after the consensus over clips. By task: the probability that each text matches; the
          probability of each option; the probability of each answer, in the order of `answers`; or the count.
        """
        has_batch = np.ndim(frames) == 6
        arrays = (
            (frames, text_ids, text_mask) if has_batch else (frames[None], text_ids[None], text_mask[None])
        )
        predicted = np.asarray(self._predict(self._placed, *map(jnp.asarray, arrays)))
        return predicted if has_batch else predicted[0]

    def model(self) -> ClipBert:
        """Return the model as a Flax NNX module, with attention and hidden states to look at."""
        return self.model_def.merge(self._placed)

    def save(self, folder: str | Path) -> None:
        """Write a model directory: weights as safetensors, config, vocabulary, a model card.

        Raises:
          UserError: the directory is not empty, or cannot be written.
        """
        model_directory.write_model(
            Path(folder),
            config=self.values,
            parameters=self.parameters,
            vocabulary=Vocabulary(
                tokens=self.inputs.tokens, letter_rules=self.inputs.letter_rules, answers=self.answers
            ),
            origin=self.origin,
        )

    @functools.cached_property
    def model_def(self) -> ModelDef:
        """Structure of the model without its parameters."""
        return model_shapes(self.config, self.task.head)[0]

    @functools.cached_property
    def _placed(self) -> Parameters:
        return {name: jnp.asarray(array) for name, array in self.parameters.items()}

    @functools.cached_property
    def _predict(self) -> Callable[..., jax.Array]:
        model_def, task, num_answers = self.model_def, self.task, len(self.answers)

        @jax.jit
        def predict(parameters: Parameters, frames: Any, ids: Any, mask: Any) -> jax.Array:
            output = model_def.merge(parameters)(frames, ids, mask)
            return task.predict(output.scores, jnp.any(mask, axis=-1), num_answers)

        return predict


def load(path_or_name: str | Path, *, step: WhichStep = None) -> Pretrained:
    """Load a trained model.

    Args:
      path_or_name: run directory of `clipbert train`; model directory of `save` or `clipbert convert`; name
        of `list_pretrained`; or `hf:user/model`, optionally with `@revision`, of the Hugging Face Hub. The
        last needs the package huggingface_hub and access to the hub.
      step: checkpoint of a run; default: the best on validation, or else the newest.

    Raises:
      UserError: the model does not exist; files are missing or damaged; config and weights do not agree.
    """
    folder = find(path_or_name)
    source = folder / model_directory.CONFIG
    if not source.exists():
        raise UserError(f"{folder} holds no run and no model (no {source.name}): give the directory of one")
    values = current_values = model_directory.read_config(folder)
    checkpoint = None
    if not model_directory.has_weights(folder):
        checkpoint = SavedCheckpoint(folder, step=step)
        values = checkpoint.config
    elif step is not None:
        raise UserError(f"{folder} is a model, not a run: it has no checkpoints; leave the step out")
    for part in ("model", "task", "data"):
        if part not in values:
            raise UserError(f"{source} has no {part!r}, so it is not a model's config; get the model again")
    config = config_from_json(values["model"], ClipBertConfig, source)
    task = config_from_json(values["task"], Task, source)
    inputs = inputs_from_json(values["data"], source)
    vocabulary = Vocabulary.read(folder)
    check_model_files(config, task, inputs, vocabulary, folder)
    return Pretrained(
        folder=folder,
        config=config,
        task=task,
        inputs=Inputs(
            **dataclasses.asdict(inputs), tokens=vocabulary.tokens, letter_rules=vocabulary.letter_rules
        ),
        parameters=_read_parameters(folder, config, task.head, checkpoint),
        answers=vocabulary.answers,
        values=values,
        current_values=current_values,
        step=checkpoint.step if checkpoint else 0,
        has_ema=checkpoint is not None and checkpoint.has_ema,
    )


def _read_parameters(
    folder: Path, config: ClipBertConfig, head: HeadConfig, checkpoint: SavedCheckpoint | None
) -> Parameters:
    """Return the weights of a checkpoint, or of a model directory, that fit the config."""
    try:
        _, trainable, frozen = model_shapes(config, head)
    except (ValueError, TypeError, ArithmeticError) as error:
        source = folder / model_directory.CONFIG
        raise UserError(f"{source} describes a model that cannot be built: {error}") from error
    expected = {**trainable, **frozen}
    if checkpoint is None:
        return model_directory.read_parameters(folder, expected)
    parameters = checkpoint.load_parameters(expected)
    if what := not_finite(parameters):
        raise UserError(f"{folder} has weights that are not finite ({what}): choose another step")
    return parameters


def find(path_or_name: str | Path) -> Path:
    """Return the directory of a model; see `load`.

    Raises:
      UserError: the model does not exist.
    """
    path, name = Path(path_or_name), str(path_or_name)
    if path.is_dir():
        return path
    if name in model_registry.registered():
        return model_registry.checked_path(name)
    if name.startswith(_HUB):
        return _from_hub(name.removeprefix(_HUB))
    known = ", ".join(model_registry.registered()) or "none"
    raise UserError(
        f"the model {name} does not exist: give a run or model directory, a registered name (there are: "
        f"{known}), or {_HUB}user/model"
    )


_HUB = "hf:"


def _from_hub(name: str) -> Path:
    """Return the local copy of a model on the Hugging Face Hub; only files of known kinds are fetched.

    Args:
      name: `user/model` or `user/model@revision`.
    """
    name, _, revision = name.partition("@")
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"for models of the Hugging Face Hub, such as {name}, pip install huggingface_hub"
        ) from error
    kinds = ["*.json", "*.safetensors", "*.txt", "README.md"]
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=kinds))
    except (OSError, ValueError) as error:  # the hub's own errors are of these two kinds
        raise UserError(
            f"the Hugging Face Hub does not give {name} "
            f"({str(error).strip().splitlines()[0]}): check the name and the network"
        ) from error
