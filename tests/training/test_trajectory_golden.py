"""Twelve updates of the original's training loop, with everything of its optimizer (golden case 05)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from clipbert_jax.batch import Batch
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.optimizer import (
    OptimizerConfig,
    is_decayed,
    make_optimizer,
    make_schedules,
    parameter_group,
)
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.step import make_train_state, make_train_step
from clipbert_jax.weights.original_names import to_original
from tests.goldens import golden

CASE = golden.load_case("05_trajectory")
META = golden.manifest()["cases"]["05_trajectory.npz"]["meta"]
SETTINGS = META["config"]
OPTIONS = SETTINGS["opts"]
NUM_STEPS = META["num_train_steps"]
NUM_PARTS = OPTIONS["gradient_accumulation_steps"]

TASK = Retrieval(consensus="log_sum_exp")
CONFIG = OptimizerConfig(
    algorithm="adamw_original",
    schedule_rule="released",
    transformer_learning_rate=OPTIONS["learning_rate"],
    pixel_encoder_learning_rate=OPTIONS["cnn_learning_rate"],
    grid_encoder_multiplier=OPTIONS["cnn_lr_mul"],
    weight_decay=OPTIONS["weight_decay"],
    pixel_encoder_weight_decay=OPTIONS["cnn_weight_decay"],
    beta1=0.9,
    beta2=0.98,
    eps=1e-6,
    warmup_share=OPTIONS["warmup_ratio"],
    max_grad_norm=OPTIONS["grad_norm"],
)

# The original's groups: transformer with its (unused) multiplier, transformer, grid encoder, other pixel encoder;
# each with decay and without.
GROUPS = ("transformer", "transformer", "grid_encoder", "pixel_encoder")


class Trajectory(NamedTuple):
    losses: np.ndarray
    grad_norms: np.ndarray
    start: dict[str, np.ndarray]
    end: dict[str, np.ndarray]


@functools.cache
def trajectory(dtype: str) -> Trajectory:
    """Train; weights have the original's names."""
    mesh = make_mesh(jax.devices()[:1])
    optimizer = make_optimizer(CONFIG, num_steps=NUM_STEPS)
    skeleton, state = make_train_state(golden.model(TASK.head, "retrieval_2", dtype=dtype), optimizer, mesh)
    start = _weights(state)
    step = make_train_step(
        skeleton, TASK, optimizer, mesh, seed=0, num_accumulation_steps=NUM_PARTS, accumulation="sum"
    )
    history = []
    for index in range(NUM_STEPS):
        state, metrics = step(state, _batch(index))
        history.append(jax.device_get(metrics))
    losses, norms = ([metrics[name] for metrics in history] for name in ("loss", "grad_norm"))
    return Trajectory(np.array(losses), np.array(norms), start, _weights(state))


def _weights(state) -> dict[str, np.ndarray]:
    return to_original({name: np.array(value) for name, value in {**state.params, **state.frozen}.items()})


def _batch(step: int) -> Batch:
    """Return the batch of an update, whose parts are the original's next micro-batches."""
    parts = [
        golden.part(CASE, f"in/batch{(step * NUM_PARTS + part) % SETTINGS['n_batches']}/")
        for part in range(NUM_PARTS)
    ]
    # Part j takes the rows j, j + number of parts, ...
    inputs = {
        name: np.stack([_by_video(part[name]) for part in parts], axis=1).reshape(
            NUM_PARTS * SETTINGS["B"], *_by_video(parts[0][name]).shape[1:]
        )
        for name in parts[0]
    }
    frames = golden.frames(inputs["frames"][:, 0])
    return Batch(
        frames=frames.reshape(len(frames), SETTINGS["n_clips"], SETTINGS["n_frames"], *frames.shape[2:]),
        text_ids=inputs["text_input_ids"],
        text_mask=inputs["text_input_mask"] > 0,
        text_valid=np.ones_like(inputs["labels"], bool),
        labels=inputs["labels"],
        example_mask=np.ones(len(frames), bool),
    )


def _by_video(array: np.ndarray) -> np.ndarray:
    """Turn rows of texts, or of videos, into [b n ...]."""
    return array.reshape(SETTINGS["B"], -1, *array.shape[1:])


def test_learning_rates_equal_the_original():
    with jax.enable_x64(True):
        schedules = make_schedules(CONFIG, NUM_STEPS)
        rates = [[float(schedules[group](count)) for group in GROUPS] for count in range(NUM_STEPS)]
    np.testing.assert_allclose(np.repeat(rates, 2, axis=1), CASE["in/lr_groups"], rtol=1e-12)


def test_parameters_are_in_the_groups_of_the_original():
    model = golden.model(TASK.head, "retrieval_2", dtype="float32")
    _, state = make_train_state(model, make_optimizer(CONFIG, num_steps=1), make_mesh(jax.devices()[:1]))
    pairs = [(parameter_group(name), is_decayed(name)) for name in state.params]
    counts = [pairs.count((group, decayed)) for group in GROUPS[1:] for decayed in (True, False)]
    expected = [group["n_tensors"] for group in META["param_groups"]][2:]
    # The original counts an unused table of positions, and 10 weights and 9 biases of the detector.
    np.testing.assert_array_equal(counts, np.subtract(expected, [1, 0, 0, 0, 10, 9]))


def test_float64_follows_the_original():
    with jax.enable_x64(True):
        _check("float64", loss=1e-6, norm=1e-5, delta=1e-5)


@pytest.mark.slow
def test_float32_stays_within_tolerance():
    _check("float32", loss=1e-2, norm=2e-2, delta=1e-2)


def _check(dtype: str, *, loss: float, norm: float, delta: float) -> None:
    actual, reference = trajectory(dtype), golden.part(CASE, "f64/")
    np.testing.assert_allclose(actual.losses, reference["loss"].reshape(-1, NUM_PARTS).mean(1), rtol=loss)
    np.testing.assert_allclose(actual.grad_norms, reference["grad_norm"], rtol=norm)
    deltas = {name: actual.end[name].astype(np.float64) - actual.start[name] for name in actual.end}
    norms = {name: np.linalg.norm(value) for name, value in deltas.items()}
    for name, index in golden.part(CASE, "in/param_index/").items():
        expected = reference[f"delta/{name}"]
        scale = reference[f"delta_l2/{name}"] / np.sqrt(deltas[name].size)
        error = np.abs(deltas[name].reshape(-1)[index] - expected).max()
        print(name, error / scale if scale else error, norms[name] / reference[f"delta_l2/{name}"] - 1)
    print(
        np.abs(actual.losses / reference["loss"].reshape(-1, NUM_PARTS).mean(1) - 1).max(),
        np.abs(actual.grad_norms / reference["grad_norm"] - 1).max(),
    )
    print(np.sqrt(sum(n**2 for n in norms.values())) / reference["delta_l2/ALL_used"] - 1)
