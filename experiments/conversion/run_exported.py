"""Run an exported ClipBERT. This file lies beside the model and stands alone; copy what you need from it.

pip install jax flatbuffers numpy safetensors python run_exported.py inputs.npz     # arrays `frames`,
`text_ids`, `text_mask`: config.json has the shapes python run_exported.py                # compare this
machine with the one that exported the model, on made-up inputs
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
from safetensors.numpy import load_file


def load(folder: Path) -> Callable[..., np.ndarray]:
    """Return the model, a function of frames [b k t h w 3], text_ids [b n l] and text_mask [b n l]."""
    exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    weights = jax.device_put(load_file(folder / "weights.safetensors"))
    program = jax.jit(exported.call)  # compiled at the first call, for this machine
    return lambda *inputs: np.asarray(program(weights, *inputs))


def check_files(folder: Path, config: dict[str, Any]) -> None:
    """Stop if the program or its weights have changed since the export."""
    for name in ("model.stablehlo", "weights.safetensors"):
        path = folder / name
        if not path.is_file():
            sys.exit(f"{path} is missing: copy all files of the export")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != config["sha256"][name]:
            sys.exit(f"{path} has changed since the export: copy it again")


def read_inputs(path: Path, inputs: list[dict[str, Any]]) -> list[np.ndarray]:
    """Return the arrays of a .npz file in the program's order; stop if one is wrong."""
    with np.load(path) as arrays:
        given = {name: arrays[name] for name in arrays.files}
    for wanted in inputs:
        name, shape, dtype = wanted["name"], tuple(wanted["shape"]), wanted["dtype"]
        if name not in given:
            sys.exit(f"{path} lacks {name}: {dtype} {shape}, {wanted['meaning']}")
        if given[name].shape != shape or given[name].dtype != dtype:
            sys.exit(f"{path}: {name} is {given[name].dtype} {given[name].shape}, not {dtype} {shape}")
    return [given[wanted["name"]] for wanted in inputs]


def made_up_inputs(inputs: list[dict[str, Any]], vocab_size: int) -> list[np.ndarray]:
    """Return meaningless inputs that are the same on every machine."""
    frames, text_ids, text_mask = (tuple(wanted["shape"]) for wanted in inputs)
    waves = np.arange(math.prod(frames)) ** 2 // 97 % 256
    ids = np.arange(math.prod(text_ids)) * 7 % vocab_size
    return [
        waves.astype(np.uint8).reshape(frames),
        ids.astype(np.int32).reshape(text_ids),
        np.ones(text_mask, bool),
    ]


def main() -> None:
    """Print predictions as JSON; with an answer vocabulary, the best five answers to each question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("inputs", type=Path, nargs="?", help="a .npz file")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent, help="folder of the exported model"
    )
    options = parser.parse_args()
    config = json.loads((options.folder / "config.json").read_text())
    check_files(options.folder, config)
    predict = load(options.folder)
    if options.inputs is None:
        check = config["self_check"]
        found = predict(*made_up_inputs(config["inputs"], config["texts"]["vocab_size"]))
        difference = np.abs(found - np.array(check["output"], np.float32)).max()
        print(f"{jax.devices()[0].device_kind} differs from {check['device']} by {difference:.2g} at most")
        return
    output = predict(*read_inputs(options.inputs, config["inputs"]))
    path = options.folder / "answers.json"
    if not path.is_file():
        print(json.dumps(output.tolist()))
        return
    answers = json.loads(path.read_text())
    for question in output.reshape(-1, len(answers)):
        best = np.argsort(-question)[:5]
        print(json.dumps({answers[place]: float(question[place]) for place in best}))


if __name__ == "__main__":
    main()
