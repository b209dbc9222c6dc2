"""Initial weights from another run or from files, for `train_run`; another task's head starts at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.model_def import Parameters
from clipbert_jax.pretrained.load import load
from clipbert_jax.weights.flat import flat_parameters, load_flat_parameters
from clipbert_jax.weights.formats.refusals import quoted
from clipbert_jax.weights.import_weights import ImportedFile, fit, import_file
from experiments.experiment import Experiment
from experiments.runs.load_run import load_run
from experiments.runs.resolve import training_answers, vocabulary_path

_HEAD = "head/"

_PARTS = {
    "model": ("pixel_encoder/", "visual_embedding/", "text_encoder/", "fusion/"),
    "pixel_encoder": ("pixel_encoder/",),
    "transformer": ("text_encoder/", "fusion/"),
}
"""Prefixes of the weights that a file must have, by --init option; a head that fits is taken too, except with
--init.pixel-encoder."""

_NEVER_THERE = {
    "pixel_encoder": ("pixel_encoder/grid_encoder/*",),
    "transformer": ("fusion/pooler/*",),
}
"""Patterns of weights that a file may lack: only ClipBERT has the first, and not every BERT the second."""


def start_from_file(
    model: ClipBert, path: Path, part: str, *, has_answers: bool = False, tokens: Sequence[str] = ()
) -> list[str]:
    """Set a part of the model's weights to those of a file; return lines that say what was not taken.

    Args:
      model: model with random weights, or with those of another file.
      path: file, run directory, model directory or registered name.
      part: `model`, `pixel_encoder` or `transformer`, as in --init.
      has_answers: whether the head's outputs are answers of a vocabulary, which a file does not name.
      tokens: vocabulary of the model; a trained transformer must have the same.

    Raises:
      UserError: the file cannot be read, or does not fit; the message names all differences.
    """
    own = flat_parameters(model)
    file = _import(model, path, part, tokens)
    parts = _PARTS[part]
    other_parts = tuple(name for name in _PARTS["model"] if name not in parts)
    head = _shapes_of_head(file.arrays)
    if part == "pixel_encoder":
        head, other_parts = {}, (*other_parts, _HEAD)
    takes_head = bool(head) and not has_answers and head == _shapes_of_head(own)
    left_out = other_parts if takes_head else (*other_parts, _HEAD)
    fitted = fit(
        [
            dataclasses.replace(
                file, arrays={name: x for name, x in file.arrays.items() if not name.startswith(left_out)}
            )
        ],
        {name: x for name, x in own.items() if name.startswith((*parts, _HEAD) if takes_head else parts)},
        allow_missing=_NEVER_THERE.get(part, ()),
        remedy=f"Give --{_option(part)} another file, or the --model options that this one was made with.",
    )
    load_flat_parameters(model, {**own, **fitted.parameters})
    lines = [f"first weights of the {part.replace('_', ' ')} from {path}: {file.source}", *file.notes]
    if fitted.new:
        lines.append(f"not in {path}, and left as they were: {', '.join(fitted.new)}")
    if takes_head:
        lines.append(f"the head too is from {path}")
    elif head:
        why = "the file does not say what its answers are" if has_answers else "the head is another"
        lines.append(f"not used of {path}, as {why}: {', '.join(map(quoted, head))}")
    if groups := sorted({name.partition("/")[0] for name in file.arrays if name.startswith(other_parts)}):
        lines.append(f"not used of {path}, as other parts of a model: {', '.join(groups)}")
    return [*lines, *fitted.lines]


def _shapes_of_head(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items() if name.startswith(_HEAD)}


def _option(part: str) -> str:
    return f"init.{part.replace('_', '-')}"


def _import(model: ClipBert, path: Path, part: str, tokens: Sequence[str]) -> ImportedFile:
    """Return the weights of a file, or of a trained or converted model."""
    if path.is_file():
        return import_file(path, model.config.pixel_encoder)
    try:
        trained = load(path)
    except UserError as error:
        raise UserError(f"--{_option(part)} {path} is neither a file nor a model: {error}") from error
    if part != "pixel_encoder" and trained.inputs.tokens != tuple(tokens):
        raise UserError(
            f"--{_option(part)} {path} was trained with a vocabulary other than the data's, so words would "
            "change their meaning; prepare the data with that vocabulary"
        )
    return _as_file(path, trained.parameters)


def _as_file(path: Path, weights: Parameters) -> ImportedFile:
    """Return weights as those of a file: arrays of the host, since those of a run belong to its devices."""
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    return ImportedFile(path=path, source="clipbert_jax", arrays=arrays, lines=(), notes=())


def start_from(model: ClipBert, weights: Parameters, source: Path, *, is_same_head: bool = True) -> list[str]:
    """Set the model's weights to those of another model; return lines that say what was not taken.

    Args:
      model: model with random weights.
      weights: weights of the other model, by flat name.
      source: name of the other model, for messages.
      is_same_head: whether the outputs of both heads mean the same; otherwise the head starts at random.

    Raises:
      UserError: names or shapes differ outside the head; the message names all differences.
    """
    own = flat_parameters(model)
    new = [
        name for name in own if name.startswith(_HEAD) and not (is_same_head and _fits(name, own, weights))
    ]
    unused = [
        name for name in weights if name.startswith(_HEAD) and (name in new or not _fits(name, weights, own))
    ]
    file = _as_file(source, {name: array for name, array in weights.items() if name not in unused})
    fitted = fit(
        [file],
        {name: array for name, array in own.items() if name not in new},
        remedy="Give --init.model another run, or the --model options that this one was trained with.",
    )
    load_flat_parameters(model, {**own, **fitted.parameters})
    lines = [f"first weights from {source}"]
    why = "has none that fit" if is_same_head else "answers from another vocabulary"
    lines += [f"drawn anew, as {source} {why}: {', '.join(new)}"] * bool(new)
    lines += [f"not used of {source}: {', '.join(unused)}"] * bool(unused)
    return [*lines, *fitted.lines]


def _fits(name: str, weights: Parameters, others: Parameters) -> bool:
    return name in others and others[name].shape == weights[name].shape


def initial_weights(experiment: Experiment, model: ClipBert) -> list[str]:
    """Set the model's weights to those that the experiment starts from; return lines about them.

    Raises:
      UserError: a run or file does not exist, has another vocabulary, or does not fit.
    """
    init = experiment.init
    lines = []
    if init.model is not None:
        if Path(init.model).is_file():
            has_answers = bool(training_answers(experiment))
            lines += start_from_file(model, Path(init.model), "model", has_answers=has_answers)
        else:
            lines += _start_from_run(experiment, model, Path(init.model))
    if init.pixel_encoder is not None:
        lines += start_from_file(model, Path(init.pixel_encoder), "pixel_encoder")
    if init.transformer is not None:
        lines += start_from_file(
            model,
            Path(init.transformer),
            "transformer",
            has_answers=bool(training_answers(experiment)),
            tokens=experiment.data.load_tokenizer().tokens,
        )
    return lines


def _start_from_run(experiment: Experiment, model: ClipBert, source: Path) -> list[str]:
    run = load_run(source)
    if run.tokenizer.tokens != experiment.data.load_tokenizer().tokens:
        raise UserError(
            f"--init.model {source} was trained with a vocabulary other than {vocabulary_path(experiment)}, "
            f"so words would change their meaning; prepare the data with --vocab {source / 'vocab.txt'}"
        )
    answers = training_answers(experiment)
    return start_from(
        model,
        run.scorer.parameters,
        Path(f"{source} at step {run.step}") if run.step else source,
        is_same_head=run.answers == answers or not (run.answers and answers),
    )
