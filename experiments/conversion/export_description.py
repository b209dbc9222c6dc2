"""Content of an exported model's `config.json`, for `export`: inputs, their making, output, origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax.export

from clipbert_jax.export import InputShape
from clipbert_jax.tasks.task import Task
from data_pipelines.transforms import MAX_ASPECT_RATIO
from experiments.runs.load_run import Run
from experiments.runtime.provenance import environment

FORMAT = 1
"""Version of the directory's format; it rises when readers must change."""

_SAMPLING = {
    "corrected": "clip i of N is centred at duration * (i + 1/2) / N, moved inside the video; a frame is "
    "the one shown at its time",
    "original": "the arithmetic of the original, clipbert_jax's data_pipelines/original_sampling.py",
}


def describe(
    run: Run, exported: jax.export.Exported, shape: InputShape, *, dtype: str, weights: str
) -> dict[str, Any]:
    """Return everything that is not measured, as JSON values."""
    experiment, data = run.experiment, run.experiment.data
    return {
        "format": FORMAT,
        "task": experiment.task_name,
        "inputs": _inputs(shape),
        "output": _output(experiment.task, exported),
        "frames": {
            "size": data.size,
            "colours": "RGB, 0-255; the program normalises them",
            "resize": "bilinear without antialiasing until the longer side is `size`; the shorter is rounded "
            "down",
            "pad": "zeros at the bottom or the right",
            "max_aspect_ratio": MAX_ASPECT_RATIO,
        },
        "clips": {
            "num_clips": shape.num_clips,
            "num_frames": data.num_frames,
            "fps": data.fps,
            "sampling_rule": data.sampling_rule,
            "sampling": _SAMPLING[data.sampling_rule],
        },
        "texts": {
            "vocab": "vocab.txt",
            "vocab_size": run.tokenizer.vocab_size,
            **dataclasses.asdict(run.tokenizer.letter_rules),
            "tokens": "[CLS] ... [SEP] of BERT's WordPiece, padded with 0; longer texts lose their end",
            "max_length": data.max_text_length,
        },
        "consensus": experiment.task.consensus,
        "compute_dtype": dtype,
        "weights": weights,
        "needs": [f"jax>={version('jax')}", "flatbuffers", "numpy", "safetensors"],
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "source": {
            "run": str(run.workdir),
            "step": run.step,
            "parameters": "moving averages" if run.has_ema else "as trained",
        },
        "exported": environment(),
    }


def _inputs(shape: InputShape) -> list[dict[str, Any]]:
    meanings = {
        "frames": ("b k t h w 3", "videos, clips, frames of a clip, pixels"),
        "text_ids": ("b n l", "texts of each video"),
        "text_mask": ("b n l", "true at real tokens; a text without them is left out"),
    }
    return [
        {
            "name": name,
            "shape": list(struct.shape),
            "dtype": str(struct.dtype),
            "axes": axes,
            "meaning": meaning,
        }
        for (name, (axes, meaning)), struct in zip(meanings.items(), shape.structs(), strict=True)
    ]


def _output(task: Task, exported: jax.export.Exported) -> dict[str, Any]:
    (aval,) = exported.out_avals
    return {
        "name": task.output_name,
        "shape": list(aval.shape),
        "dtype": str(aval.dtype),
        "axes": "b n a"[: 2 * aval.ndim - 1],
        "meaning": f"{task.output_meaning.format(task=task)}, after the consensus over clips",
    }


def summary(config: dict[str, Any], out: Path) -> Iterator[str]:
    """Yield the lines that `clipbert export` prints."""
    agreement, seconds = config["agreement"], config["seconds"]
    sizes = ", ".join(f"{name} {size:.2f} MB" for name, size in config["megabytes"].items())
    yield f"{out}: {sizes}; for {', '.join(config['platforms'])}, made in {seconds['export']:.1f} s"
    yield (
        f"a call takes {1e3 * seconds['call']:.1f} ms on {config['self_check']['device']}, the first "
        f"{seconds['compile_and_first_call']:.1f} s"
    )
    yield f"compared with float32 on {agreement['inputs']}: {agreement['of']}"
    what = "counts" if config["output"]["name"] == "counts" else "probabilities"
    yield (
        f"{what} differ by at most {agreement['max_difference']:.2g}, on average by "
        f"{agreement['mean_difference']:.2g}; {agreement['same_decisions']:.1%} of decisions are the same"
        + (
            f", {agreement['same_order']:.2%} of pairs are in the same order"
            if "same_order" in agreement
            else ""
        )
    )
    yield f"without this package: pip install jax flatbuffers numpy safetensors; python {out}/run_exported.py"
