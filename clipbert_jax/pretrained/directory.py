"""A model directory, to use and to share: weights as safetensors, and everything that their use depends on.

    config.json             config of the training or conversion that made the model
    model.safetensors       flat name -> array; the README has its sha256
    vocab.txt               with tokenizer_config.json: meanings of token ids
    answers.json            meanings of the head's outputs; empty for tasks without an answer vocabulary
    README.md               model card

A run directory has the same files, with checkpoints instead of the safetensors. Reading executes nothing in
them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipbert_jax.atomic_files import write_whole
from clipbert_jax.errors import UserError, unwritable
from clipbert_jax.models.model_def import Parameters
from clipbert_jax.renames import present_names
from clipbert_jax.text_files import read_json
from clipbert_jax.tokenizer_files import USUAL_RULES, LetterRules, read_tokenizer
from clipbert_jax.weights.flat import WeightsMismatchError, check_names_and_shapes, not_finite
from clipbert_jax.weights.formats.read_file import read_weights_file
from clipbert_jax.weights.formats.safetensors_writer import WEIGHT_TYPES, write_safetensors

CONFIG, WEIGHTS, VOCAB, TOKENIZER, ANSWERS, CARD = (
    "config.json",
    "model.safetensors",
    "vocab.txt",
    "tokenizer_config.json",
    "answers.json",
    "README.md",
)
_WRITING = ".writing"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Meanings of token ids and of outputs."""

    tokens: tuple[str, ...]
    """Tokens; the id of a token is its place."""
    letter_rules: LetterRules = USUAL_RULES
    """What becomes of the letters of a text, such as lower case."""
    answers: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """Read the files of a model or run directory.

        Raises:
          UserError: one is missing or broken.
        """
        tokens, letter_rules = read_tokenizer(folder)
        return cls(
            tokens=tokens,
            letter_rules=letter_rules,
            answers=tuple(map(str, read_json(folder / ANSWERS, list))),
        )

    def write(self, folder: Path) -> None:
        """Write the files, each whole or not at all; those with the same content stay untouched."""
        _write_text(folder / VOCAB, "".join(f"{token}\n" for token in self.tokens))
        _write_json(folder / TOKENIZER, self.letter_rules.to_config())
        _write_json(folder / ANSWERS, list(self.answers))


def has_weights(folder: Path) -> bool:
    """Return whether a directory is a model's, and not a run's."""
    return (folder / WEIGHTS).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config as JSON values.

    Raises:
      UserError: the file is missing or broken.
    """
    return present_names(read_json(folder / CONFIG, dict))


def read_parameters(folder: Path, expected: Parameters) -> Parameters:
    """Return the weights by flat name, as views of the file; names and shapes must be those of `expected`.

    Raises:
      UserError: the file is damaged, or does not fit; the message names all differences.
    """
    arrays = read_weights_file(folder / WEIGHTS).arrays
    try:
        check_names_and_shapes(
            {name: tuple(x.shape) for name, x in expected.items()},
            {name: x.shape for name, x in arrays.items()},
        )
    except WeightsMismatchError as error:
        raise UserError(f"{folder / WEIGHTS} does not fit the model of its {CONFIG}: {error}") from error
    quantised = [name for name in expected if arrays[name].dtype not in WEIGHT_TYPES]
    if quantised:
        raise UserError(
            f"{folder / WEIGHTS} holds {arrays[quantised[0]].dtype} as {quantised[0]}: quantised weights "
            "mean nothing without their scales; get the model in a float type"
        )
    if what := not_finite(arrays):
        raise UserError(f"{folder / WEIGHTS} holds weights that are not finite ({what}): get the model again")
    return {name: arrays[name] for name in expected}


def check_new_directory(folder: Path) -> None:
    """Refuse a directory that a model cannot be written to, before the work is done.

    Raises:
      UserError: the directory is not empty, or cannot be written.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(path.name != _WRITING for path in folder.iterdir())):
        raise UserError(f"{folder} is not empty: choose a new directory")
    try:
        with tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
            pass
    except OSError as error:
        raise unwritable(folder, error, "choose another directory") from error


def write_model(
    folder: Path,
    *,
    config: Mapping[str, Any],
    parameters: Parameters,
    vocabulary: Vocabulary,
    origin: Mapping[str, str],
) -> None:
    """Write a model to a new or empty directory, complete or not at all.

    Args:
      folder: directory to write.
      config: config as JSON values, with `model`, `task` and `data`.
      parameters: weights by flat name.
      vocabulary: tokens and answers.
      origin: facts by name about the model's origin, for the card.

    Raises:
      UserError: the directory is not empty, or cannot be written.
    """
    check_new_directory(folder)
    finished = folder.resolve()  # "." has no name, and ".." another
    # An existing directory may be the working directory of a shell, and must stay.
    folder = finished / _WRITING if finished.exists() else finished.with_name(f".{finished.name}{_WRITING}")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        _write_json(folder / CONFIG, config)
        vocabulary.write(folder)
        ordered = dict(sorted(parameters.items()))  # the same model gives the same bytes
        write_safetensors(folder / WEIGHTS, ordered, {"format": "clipbert_jax", "schema_version": "1"})
        facts = {**origin, f"sha256 of {WEIGHTS}": file_sha256(folder / WEIGHTS)}
        (folder / CARD).write_text(_card(finished.name, config, parameters, facts), encoding="utf-8")
        if finished.exists():
            for name in (VOCAB, TOKENIZER, ANSWERS, CARD, WEIGHTS, CONFIG):  # the last makes it a model
                (folder / name).replace(finished / name)
        else:
            folder.replace(finished)
    except OSError as error:
        raise unwritable(finished, error, "choose another directory") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card(name: str, config: Mapping[str, Any], parameters: Parameters, origin: Mapping[str, str]) -> str:
    task, data = config["task"], config["data"]
    num_parameters = sum(int(np.prod(x.shape)) for x in parameters.values())
    facts = {
        "task": task["name"],
        "consensus over clips": task.get("consensus", "mean"),
        "clips": f"{data['num_clips']} of {data['num_frames']} frame(s) at {data['fps']:g} a second",
        "frames": f"{data['size']} x {data['size']} pixels, resized and padded",
        "texts": f"at most {data['max_text_length']} tokens",
        "parameters": f"{num_parameters:,}",
        **origin,
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""---
library_name: clipbert_jax
tags: [clipbert, video-text, jax]
---

# {name}

A ClipBERT for clipbert_jax, not related to OpenAI's CLIP.

| | |
|---|---|
{rows}

    import clipbert_jax
    from data_pipelines.inputs import encode_texts, read_clips

    model = clipbert_jax.load("path of this directory")
    texts = ["a first text", "another one"]
    print(model.predict(read_clips("video.mp4", model.inputs), *encode_texts(texts, model.inputs)))
"""


def _write_json(path: Path, values: Any) -> None:
    _write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write a file, unless it has the same content already."""
    data = text.encode("utf-8")
    if path.is_file() and path.read_bytes() == data:
        return
    write_whole(path, data)
