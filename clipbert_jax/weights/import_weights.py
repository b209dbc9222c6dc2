"""Weights from files of other models: flat names for ours, and a report about every array.

`clipbert convert` and the options `--init.*` call it. Nothing is left out, drawn anew or resized without a
line that says so.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from clipbert_jax.config import PixelEncoderConfig
from clipbert_jax.errors import UserError
from clipbert_jax.models.model_def import Parameters
from clipbert_jax.weights.flat import not_finite
from clipbert_jax.weights.formats.read_file import read_weights_file
from clipbert_jax.weights.formats.refusals import indented, quoted
from clipbert_jax.weights.formats.safetensors_writer import WEIGHT_TYPES
from clipbert_jax.weights.names.original_names import ALIASES, to_our_name
from clipbert_jax.weights.names.position_tables import POSITION_TABLES, resize_position_table
from clipbert_jax.weights.names.source_names import to_original_names

HEAD = "head/"

_REMEDY = (
    "Add the file that has what is missing, allow names to be drawn anew with --allow-missing PATTERN, or "
    "choose another experiment."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayReport:
    """Target of one array of a file."""

    name: str
    """Name in the file."""
    shape: tuple[int, ...]
    target: str
    """Our name, or the reason why it lacks one."""
    is_used: bool
    is_unknown: bool
    """Whether it is unused although no rule says so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """Content of a file by our names."""

    path: Path
    source: str
    """Kind of weights, and format of the file."""
    arrays: Mapping[str, np.ndarray]
    lines: tuple[ArrayReport, ...]
    notes: tuple[str, ...]


def import_file(path: Path, pixel_encoder: PixelEncoderConfig) -> ImportedFile:
    """Read a file of weights and give its arrays our names.

    Args:
      path: checkpoint of the original, BERT of Hugging Face, ResNet-50 of detectron2 or torchvision, or our
        safetensors.
      pixel_encoder: config of the model; the stem is changed to its scale of pixels.

    Raises:
      UserError: the file cannot be read, has unknown names, or contradicts itself.
    """
    file = read_weights_file(path)
    other = tuple(f"{path} also holds {', '.join(file.others)}, which is not read" for _ in file.others[:1])
    if all("/" in name for name in file.arrays):  # our names
        lines = tuple(_report(name, x, quoted(name), is_used=True) for name, x in file.arrays.items())
        source = f"clipbert_jax ({file.format})"
        return ImportedFile(path=path, source=source, arrays=file.arrays, lines=lines, notes=other)
    found = to_original_names(path, file.arrays, pixel_encoder)
    arrays: dict[str, np.ndarray] = {}
    reports = [_report(name, file.arrays[name], f"ignored: {why}") for name, why in found.ignored.items()]
    reports += [_report(name, file.arrays[name], "unused", is_unknown=True) for name in found.unused]
    for original, array in found.arrays.items():
        name = found.origin[original]
        if original in ALIASES:
            twin = ALIASES[original]
            if twin not in found.arrays or not np.array_equal(found.arrays[twin], array):
                raise UserError(
                    f"{path} contradicts itself: {quoted(name)} should hold the same array as {twin}"
                )
            reports.append(_report(name, array, f"the same as {twin}", is_used=True))
        elif (renamed := to_our_name(original)) is not None:
            ours, rule = renamed
            arrays[ours] = rule.to_ours(array)
            reports.append(_report(name, array, ours, is_used=True))
        else:
            reports.append(_report(name, array, "unused", is_unknown=True))
    return ImportedFile(
        path=path,
        source=f"{found.source} ({file.format})",
        arrays=arrays,
        lines=tuple(reports),
        notes=(*found.notes, *other),
    )


def _report(
    name: str, array: np.ndarray, target: str, *, is_used: bool = False, is_unknown: bool = False
) -> ArrayReport:
    return ArrayReport(
        name=quoted(name), shape=array.shape, target=target, is_used=is_used, is_unknown=is_unknown
    )


def without_other_head(files: Sequence[ImportedFile], fresh: Parameters) -> list[ImportedFile]:
    """Leave out another task's head, one whose names or shapes differ from the model's own.

    Classifiers of all tasks have the same names. If the shapes are equal too, they cannot be told apart.
    `fresh` has the model's initial weights by flat name.
    """
    own = {name: np.shape(array) for name, array in fresh.items() if name.startswith(HEAD)}
    heads = [
        (name, array.shape) for file in files for name, array in file.arrays.items() if name.startswith(HEAD)
    ]
    shared = [shape == own[name] for name, shape in heads if name in own]
    if not own or (shared and all(shared)):
        return list(files)
    return [
        dataclasses.replace(
            file,
            arrays={name: array for name, array in file.arrays.items() if not name.startswith(HEAD)},
            lines=tuple(map(_without_head, file.lines)),
        )
        for file in files
    ]


def _without_head(line: ArrayReport) -> ArrayReport:
    if not line.target.startswith(HEAD):
        return line
    return dataclasses.replace(
        line, target="left out: the head of another task or other answers", is_used=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """A model's weights, from files or drawn anew."""

    parameters: Parameters
    new: tuple[str, ...]
    """Names that the files lack."""
    lines: tuple[str, ...]
    """Sentences about resized tables and a new head."""


def fit(
    files: Sequence[ImportedFile],
    fresh: Parameters,
    *,
    allow_missing: Sequence[str] = (),
    remedy: str = _REMEDY,
) -> Fitted:
    """Assemble a model's weights.

    Args:
      files: files that together have every weight, except those of a new head.
      fresh: the model's initial weights by flat name.
      allow_missing: shell patterns of flat names that may keep their initial values.
      remedy: sentence that ends the error.

    Raises:
      UserError: names that are missing, unused, mis-shaped, or in two files; the message lists all.
    """
    sources: dict[str, Path] = {}
    arrays: dict[str, np.ndarray] = {}
    problems: list[str] = []
    sentences: list[str] = []
    for file in files:
        problems += [
            f"unused: {line.name} {line.shape} of {file.path}" for line in file.lines if line.is_unknown
        ]
        for name, array in file.arrays.items():
            if name in sources:
                problems.append(f"twice: {quoted(name)} is in {sources[name]} and in {file.path}")
            sources[name] = file.path
            arrays[name] = array
    for name in [name for name in POSITION_TABLES if name in arrays and name in fresh]:
        arrays[name], sentence = resize_position_table(name, arrays[name], np.asarray(fresh[name]))
        sentences += [sentence] if sentence else []
    problems += _misfits(arrays, fresh)
    missing = [name for name in fresh if name not in arrays]
    has_new_head = all(name in missing for name in fresh if name.startswith(HEAD))
    problems += [
        f"missing: {name} {np.shape(fresh[name])}"
        for name in missing
        if not (has_new_head and name.startswith(HEAD))
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow_missing)
    ]
    paths = ", ".join(str(file.path) for file in files)
    if problems:
        raise UserError(
            f"{len(problems)} problem(s) between {paths} and the model:\n{indented(problems)}\n{remedy}"
        )
    if has_new_head and any(name.startswith(HEAD) for name in missing):
        sentences.append("the head is new: drawn at random, to be trained")
    if what := not_finite({name: arrays[name] for name in fresh if name in arrays}):
        raise UserError(f"{paths}: weights are not finite ({what}). Get them again, or from another step.")
    return Fitted(
        parameters={
            name: np.asarray(arrays[name], fresh[name].dtype) if name in arrays else fresh[name]
            for name in fresh
        },
        new=tuple(missing),
        lines=tuple(sentences),
    )


def _misfits(arrays: Mapping[str, np.ndarray], fresh: Parameters) -> Iterator[str]:
    for name, array in arrays.items():
        if name not in fresh:
            yield f"unused: {quoted(name)} {array.shape}, as the model has no such part"
        elif array.shape != np.shape(fresh[name]):
            yield f"wrong shape: {name} is {array.shape}, the model has {np.shape(fresh[name])}"
        elif array.dtype not in WEIGHT_TYPES:
            yield f"wrong type: {name} holds {array.dtype}, which mean nothing without their scales"
