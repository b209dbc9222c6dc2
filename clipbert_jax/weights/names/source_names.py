"""Finds which model a file's weights belong to, and gives them the names of the original ClipBERT.

`import_weights` calls it, and then turns the original's names into ours. Each name is renamed, left out by a
rule with a reason, or reported as unused.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from clipbert_jax.config import PixelEncoderConfig
from clipbert_jax.errors import UserError
from clipbert_jax.weights.formats.refusals import listed, quoted
from clipbert_jax.weights.names.original_names import ALIASES
from clipbert_jax.weights.names.source_tables import CAFFE2, DETECTRON2, SOURCES, WeightSource
from clipbert_jax.weights.names.stem_folding import fold_pixels, stored_pixels

_WRAPPER = "module."
_NORM_SCALE = ".norm.weight"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceNames:
    """Weights of a file by the original ClipBERT's names, and what became of each name."""

    source: str
    """"ClipBERT", "BERT", "detectron2", "Caffe2 ResNet" or "torchvision ResNet"."""
    arrays: Mapping[str, Shaped[np.ndarray, "*dims"]]
    """Arrays by the original's name, as in the file except for what `notes` say."""
    origin: Mapping[str, str]
    """The original's name -> the name in the file; for an implied array, its value in brackets."""
    ignored: Mapping[str, str]
    """Names in the file that a rule leaves out -> the reason."""
    unused: tuple[str, ...]
    """Names in the file that no rule covers."""
    notes: tuple[str, ...]
    """Sentences about changes, and about such weights in general."""


def to_original_names(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Shaped[np.ndarray, "*dims"]],
    pixel_encoder: PixelEncoderConfig,
) -> SourceNames:
    """Turn the names of a file of weights into those of the original ClipBERT.

    Shapes are checked against the model later.

    Args:
      path: file, for messages.
      arrays: arrays of the file.
      pixel_encoder: config of the model. A ResNet's stem is changed to take pixels as this encoder scales
        them, so that the same picture gives the same features.

    Raises:
      UserError: the names fit no known source, or several; or two of them mean one weight.
    """
    # Training on several devices wraps a model. A file that is wrapped in part stays as it is, and is
    # refused.
    wrapper = _WRAPPER if all(name.startswith(_WRAPPER) for name in arrays) else ""
    names = {name.removeprefix(wrapper): name for name in arrays}
    source = _find_source(path, names)
    origin: dict[str, str] = {}
    ignored: dict[str, str] = {}
    unused: list[str] = []
    for name, name_in_file in names.items():
        if (original := source.original(name)) is not None:
            if original in origin:
                raise UserError(
                    f"{path} has one weight twice, as {quoted(origin[original])} and as "
                    f"{quoted(name_in_file)}; remove one of them"
                )
            origin[original] = name_in_file
        elif (reason := source.reason_to_ignore(name)) is not None:
            ignored[name_in_file] = reason
        else:
            unused.append(name_in_file)
    _settle_aliases(origin)
    result = {original: arrays[name] for original, name in origin.items()}
    notes = list(source.notes)
    if source is CAFFE2:
        notes += _add_statistics(result, origin)
    constants = {name: arrays[names[name]] for name in ("pixel_mean", "pixel_std") if name in names}
    notes += _fold(source, result, constants, pixel_encoder)
    return SourceNames(
        source=source.name,
        arrays=result,
        origin=origin,
        ignored=ignored,
        unused=tuple(unused),
        notes=tuple(notes),
    )


def _find_source(path: str | os.PathLike[str], names: Mapping[str, str]) -> WeightSource:
    found = [source for source in SOURCES if source.has(names)]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(dict.fromkeys(source.name for source in SOURCES))
        raise UserError(
            f"{path} has weights of an unknown model ({known} are known): its names are "
            f"{listed(list(names.values())) or 'none'}; give a file of one of them"
        )
    several = "; ".join(
        f"{source.name}: {listed([names[name] for name in names if source.original(name)])}"
        for source in found
    )
    raise UserError(f"{path} has weights of several models ({several}); give each in a file of its own")


def _settle_aliases(origin: dict[str, str]) -> None:
    """Rename arrays to their first name where a file has kept only the second."""
    for alias, name in ALIASES.items():
        if alias in origin and name not in origin:
            origin[name] = origin.pop(alias)


def _add_statistics(arrays: dict[str, np.ndarray], origin: dict[str, str]) -> list[str]:
    """Add mean and variance to norms that have only a scale and a shift."""
    num_completed = 0
    for scale_name in [name for name in arrays if name.endswith(_NORM_SCALE)]:
        norm, scale = scale_name.removesuffix("weight"), arrays[scale_name]
        mean, variance = f"{norm}running_mean", f"{norm}running_var"
        if mean in arrays or variance in arrays:
            continue  # if one is missing, the check of all names reports it
        arrays[mean] = np.zeros(scale.shape, np.float32)
        # As in detectron2: norms add an epsilon to the variance, so that exactly the scale remains.
        arrays[variance] = np.full(scale.shape, 1 - 1e-5, np.float32)
        origin[mean], origin[variance] = "(not in the file: 0)", "(not in the file: 1)"
        num_completed += 1
    if not num_completed:
        return []
    return [f"{num_completed} norms have only a scale and a shift, and get a mean of 0 and a variance of 1"]


def _fold(
    source: WeightSource,
    arrays: dict[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    pixel_encoder: PixelEncoderConfig,
) -> list[str]:
    """Make the stem fit the model's pixels, in place; return sentences about it."""
    pixels = source.pixels
    if pixels is None:
        return []
    if source is DETECTRON2:
        pixels = stored_pixels(pixels, constants.get("pixel_mean"), constants.get("pixel_std"))
    changed, sentence = fold_pixels(arrays, pixels, pixel_encoder)
    arrays.update(changed)
    return [sentence] if sentence else []
