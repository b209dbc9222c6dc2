"""Checks of a model's config and vocabulary before the model is built, as both may be a stranger's.

`load` calls them: tracing a model takes as much time and memory as the config's sizes say.
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
"""Smallest and largest values in a config's data; training keeps to them, so that its models load."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """Settings of a model's clips and texts, a part of a config's data."""

    num_clips: int
    """Number of clips per video in training; prediction may use more."""
    num_frames: int
    """Number of frames per clip."""
    fps: float
    """Frames per second within a clip."""
    size: int
    """Longer side of a frame in pixels; the rest of the square is padded."""
    sampling_rule: Literal["corrected", "original"]
    """Arithmetic of the frame times."""
    max_text_length: int
    """Longest text in tokens, with [CLS] and [SEP]."""

    @classmethod
    def of(cls, data: Any) -> InputsConfig:
        """Return these fields of another object, such as the data of an experiment."""
        return cls(**{field.name: getattr(data, field.name) for field in dataclasses.fields(cls)})


def inputs_from_json(data: Any, source: Path) -> InputsConfig:
    """Return the settings of a model's clips and texts from a config's data; other fields are ignored.

    Raises:
      UserError: a field is missing or ill-typed.
    """
    names = [field.name for field in dataclasses.fields(InputsConfig)]
    values = {name: data[name] for name in names if name in data} if isinstance(data, dict) else data
    return config_from_json(values, InputsConfig, source)


def check_model_files(
    config: ClipBertConfig, task: Task, inputs: InputsConfig, vocabulary: Vocabulary, folder: Path
) -> None:
    """Refuse impossible sizes, and words or answers of another model; errors name the files in `folder`.

    Raises:
      UserError: the first problem.
    """
    _check_sizes(config, folder / CONFIG)
    _check_inputs(inputs, config, folder / CONFIG)
    _check_vocabulary(vocabulary, config, task, folder)


def _check_sizes(config: ClipBertConfig, source: Path) -> None:
    """Refuse sizes that would fill the memory before a single weight is read."""
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
        raise UserError(f"{source} describes a model of impossible size; get the model again")


def _check_inputs(inputs: InputsConfig, config: ClipBertConfig, source: Path) -> None:
    """Refuse impossible clips and texts, and those that would fill the memory."""
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
            f"{folder / VOCAB} has {len(vocabulary.tokens):,} tokens, and the model "
            f"has words for {config.fusion.vocab_size:,}: get the model again"
        )
    if isinstance(task, AnswerTask) and not 0 < len(vocabulary.answers) <= task.num_answers:
        raise UserError(
            f"{folder / ANSWERS} has {len(vocabulary.answers)} answers, and the model "
            f"{task.num_answers} outputs: get the model again"
        )
