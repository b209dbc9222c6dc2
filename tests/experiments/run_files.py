"""Run directories as training leaves them, without training."""

import json
from pathlib import Path

from experiments.configs import EXPERIMENTS
from experiments.experiment import to_json

COMMAND = "clipbert train demo/retrieval --workdir runs/a"


def write_run(folder, *, losses=(0.5, 0.25), num_steps=100, checkpoints=(), starts=None, **config):
    """Write a run with a record every ten steps; `config` holds dotted fields, with __ for dots."""
    folder.mkdir(parents=True)
    values = to_json(EXPERIMENTS["demo/retrieval"]())
    for name, value in {"train__num_steps": num_steps, **config}.items():
        group, _, field = name.partition("__")
        values[group][field] = value
    write(folder / "config.json", values)
    records = [record(10 * place, loss) for place, loss in enumerate(losses, start=1)]
    write_lines(folder / "metrics.jsonl", records)
    for step in checkpoints:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    write(folder / "environment.json", {"starts": [start()] if starts is None else starts})
    return folder


def record(step, loss, **more):
    return {
        "step": step,
        "loss": loss,
        "grad_norm": 1.5,
        "transformer_learning_rate": 1e-4,
        "pixel_encoder_learning_rate": 5e-5,
        "step_seconds": 0.5,
        "videos_per_second": 64.0,
        "input_wait_share": 0.125,
        "num_compilations": int(step == 10),
        **more,
    }


def start(**more):
    return {
        "command": COMMAND,
        "device": "8 x gpu (NVIDIA H100 80GB HBM3)",
        "date": "2026-01-02T03:04:05+00:00",
        "versions": {"jax": "0.10.2"},
        "num_processes": 2,
        **more,
    }


def write(path: Path, values):
    path.write_text(json.dumps(values))


def write_lines(path: Path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
