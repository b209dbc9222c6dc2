"""What a model's config and words must say before any of it is built: they may be a stranger's.

Before: `config_json` has made dataclasses of the config, whose types are right. After: the model is traced,
which takes as much time and memory as its sizes say.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.config_json import config_from_json
from clipbert_jax.errors import UserError
from clipbert_jax.pretrained.directory import ANSWERS, CONFIG, VOCAB, Vocabulary
from clipbert_jax.tasks.task import AnswerTask, Task

_MAX_LAYERS, _MAX_WIDTH = 512, 1 << 17

INPUT_RANGES: dict[str, tuple[float, float]] = {
    "num_clips": (1, 1024),
    "num_frames": (1, 1024),
    "size": (16, 4096),
    "fps": (1e-4, 1e4),  # NaN is in no range
    "max_text_length": (2, _MAX_WIDTH),  # [CLS] and [SEP] at least
}
"""Least and most of a config's data; training keeps to them too, or nobody could load what it saves."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """The part of a config's data that says what clips and texts a model takes."""

    num_clips: int
    """Of training; prediction may look at more."""
    num_frames: int
    """Of a clip."""
    fps: float
    """Frames per second within a clip."""
    size: int
    """Pixels of the longer side; the rest is padded."""
    sampling_rule: Literal["corrected", "original"]
    max_text_length: int
    """Tokens, [CLS] and [SEP] included."""

    @classmethod
    def of(cls, data: Any) -> InputsConfig:
        """Return the part of something that has these fields, such as the data of an experiment."""
        return cls(**{field.name: getattr(data, field.name) for field in dataclasses.fields(cls)})


def inputs_from_json(data: Any, source: Path) -> InputsConfig:
    """Return what clips and texts a model takes.

    Args:
      data: the data of a config, as JSON values; what else it says is not read.
      source: named in errors.

    Raises:
      UserError: a field is missing or ill-typed.
    """
    names = [field.name for field in dataclasses.fields(InputsConfig)]
    values = {name: data[name] for name in names if name in data} if isinstance(data, dict) else data
    return config_from_json(values, InputsConfig, source)


def check_model_files(
    config: ClipBertConfig, task: Task, inputs: InputsConfig, vocabulary: Vocabulary, folder: Path
) -> None:
    """Refuse a model that no ClipBERT can be, and words or answers of another model.

    Args:
      config: of the model.
      task: of the model.
      inputs: how its clips and texts are made.
      vocabulary: of its directory.
      folder: a model or run directory; its files are named in errors.

    Raises:
      UserError: the first thing that is wrong.
    """
    _check_sizes(config, folder / CONFIG)
    _check_inputs(inputs, config, folder / CONFIG)
    _check_vocabulary(vocabulary, config, task, folder)


def _check_sizes(config: ClipBertConfig, source: Path) -> None:
    """Refuse sizes that would take the memory before a single weight is read."""
    fusion, encoder = config.fusion, config.pixel_encoder
    depths = (fusion.num_layers, len(encoder.stage_blocks), sum(encoder.stage_blocks))
    widths = (fusion.hidden_size, fusion.intermediate_size, fusion.num_heads, fusion.max_text_length)
    widths += (fusion.max_grid_rows, fusion.max_grid_columns, encoder.stem_width, encoder.stage_width)
    tall = fusion.vocab_size
    if not (
        all(0 < depth <= _MAX_LAYERS for depth in (*depths, *encoder.stage_blocks))
        and all(0 < width <= _MAX_WIDTH for width in (*widths, fusion.num_token_types))
        and 0 < tall <= 1 << 24
        and fusion.hidden_size % fusion.num_heads == 0
    ):
        raise UserError(f"{source} describes a model of sizes that no ClipBERT has; get the model again")


def _check_inputs(inputs: InputsConfig, config: ClipBertConfig, source: Path) -> None:
    """Refuse clips and texts that cannot be, or that would take the memory when they are made."""
    for name, (least, most) in INPUT_RANGES.items():
        value = getattr(inputs, name)
        most = config.fusion.max_text_length if name == "max_text_length" else most
        if not least <= value <= most:
            raise UserError(
                f"{source} says data.{name} {value}, which must be from {least:g} to {most:g}; get the model "
                "again"
            )


def _check_vocabulary(vocabulary: Vocabulary, config: ClipBertConfig, task: Task, folder: Path) -> None:
    if len(vocabulary.tokens) > config.fusion.vocab_size:
        raise UserError(
            f"{folder / VOCAB} has {len(vocabulary.tokens):,} tokens, and the model words "
            f"for {config.fusion.vocab_size:,}: get the model again"
        )
    if isinstance(task, AnswerTask) and not 0 < len(vocabulary.answers) <= task.num_answers:
        raise UserError(
            f"{folder / ANSWERS} has {len(vocabulary.answers)} answers, and the model "
            f"{task.num_answers} outputs: get the model again"
        )
