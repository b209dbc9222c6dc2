"""Training steps over several clips against the original's (golden case 04)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBert, ClipBertOutput
from clipbert_jax.models.heads import ClassifierHeadConfig
from clipbert_jax.models.model_def import Parameters, split_model
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.tasks.task import Task
from tests.goldens import golden

from .step_golden import FLOAT32, FLOAT64, Tolerances, check_gradient, make_batch

CASE = golden.load_case("04_consensus")
META = golden.manifest()["cases"]["04_consensus.npz"]
SETTINGS = META["meta"]["config"]

TASKS: dict[str, Task] = {
    "ret_ce_mean": Retrieval(),
    "ret_ce_max": Retrieval(consensus="max"),
    "ret_ce_lse": Retrieval(consensus="log_sum_exp"),
    "ret_rank_mean": Retrieval(loss="rank"),
    "ret_rank_max": Retrieval(loss="rank", consensus="max"),
    "qa_mean": OpenEndedQA(num_answers=23),
    "qa_max": OpenEndedQA(num_answers=23, consensus="max"),
    "qa_lse": OpenEndedQA(num_answers=23, consensus="log_sum_exp"),
    "mc_lse": MultipleChoiceQA(consensus="log_sum_exp"),
}


# Each loss and each consensus once; the others combine them anew.
KEPT = ("ret_ce_lse", "ret_rank_mean", "qa_max", "mc_lse")


@pytest.mark.parametrize(
    "name", [name if name in KEPT else pytest.param(name, marks=pytest.mark.slow) for name in TASKS]
)
def test_loss_and_gradients_equal_the_original(name):
    """The transformer's gradients, its visual embedding included; those of the pixel encoder: see below."""
    with jax.enable_x64(True):
        gradient, _ = _check_loss(name, "float64", FLOAT64)
        check_gradient("04_consensus", name, gradient, FLOAT64, prefix="transformer.")


@pytest.mark.slow  # XLA's convolutions in float64 are ten times as slow as in float32
@pytest.mark.parametrize("name", TASKS)
def test_gradients_of_the_pixel_encoder_equal_the_original(name):
    with jax.enable_x64(True):
        _check_everything(name, "float64", FLOAT64)


@pytest.mark.slow  # float64 is the stricter test; float32 of the whole model is in test_clipbert_golden.py
@pytest.mark.parametrize("name", ["ret_ce_lse", "qa_lse", "mc_lse"])
def test_float32_stays_within_tolerance(name):
    _check_everything(name, "float32", FLOAT32)


def _check_everything(name: str, dtype: str, tolerances: Tolerances) -> None:
    gradient, grid_gradient = _check_loss(name, dtype, tolerances)
    _, pull_back = _grids(dtype)
    check_gradient("04_consensus", name, {**gradient, **pull_back(grid_gradient)}, tolerances)


def _check_loss(name: str, dtype: str, tolerances: Tolerances) -> tuple[Parameters, jax.Array]:
    """Return the gradients of the parameters behind the grids, and of the grids."""
    task, batch = TASKS[name], _batch(name)
    score, params = _scoring(task.head, META["heads"][name], dtype)

    def loss(params: Parameters, grids: jax.Array) -> jax.Array:
        output = score(params, grids, batch.text_ids, batch.text_mask)
        losses, weights = task.losses(output, batch), task.loss_weights(batch)
        (name,) = losses.keys()
        return jnp.sum(losses[name] * weights[name]) / jnp.sum(weights[name])

    compute = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, (gradient, grid_gradient) = compute(params, _grids(dtype)[0])
    np.testing.assert_allclose(value, CASE[f"f64/{name}/loss"][0], rtol=tolerances.loss)
    return gradient, grid_gradient


def _batch(name: str) -> Batch:
    inputs = golden.part(CASE, f"in/{name}/")
    num_videos, labels = SETTINGS["B"], inputs["labels"]
    # The original repeats a video for each of five options, and counts it once.
    counts = np.full(num_videos, len(inputs["text_input_ids"]) // num_videos)
    if not isinstance(TASKS[name], MultipleChoiceQA):
        np.testing.assert_array_equal(counts, inputs["n_examples_list"])
        labels = labels.reshape(num_videos, -1)
    return make_batch(_frames(), inputs, counts, labels)


def _frames() -> np.ndarray:
    frames = golden.frames(CASE["in/frames"])
    return frames.reshape(SETTINGS["B"], SETTINGS["n_clips"], SETTINGS["n_frames"], *frames.shape[2:])


# The model is cut at the grids. What comes before is the same for all tasks, and compiled and run once.


@functools.cache
def _model(dtype: str) -> ClipBert:
    """Return the model whose head is replaced for each task."""
    return golden.model(ClassifierHeadConfig(num_outputs=2), "retrieval_2", dtype=dtype)


@functools.cache
def _grids(dtype: str) -> tuple[jax.Array, Callable[[jax.Array], Parameters]]:
    """Return the grids of all clips, and what turns their gradient into the pixel encoder's."""
    model_def, params, frozen = split_model(_model(dtype))
    encode = jax.jit(lambda arrays, frames: model_def.merge(arrays).pixel_encoder(frames))
    mine, others = _split(params)
    constants = {**others, **frozen}
    grids, pull_back = jax.vjp(lambda mine: encode({**mine, **constants}, _frames()), mine)
    return grids, lambda gradient: pull_back(gradient)[0]


@functools.cache
def _scoring(
    head: ClassifierHeadConfig, head_name: str, dtype: str
) -> tuple[Callable[..., ClipBertOutput], Parameters]:
    """Return a jitted (parameters, grids, text ids, text mask) -> output and the parameters it reads."""
    model = _model(dtype)
    golden.replace_head(model, head, head_name)
    model_def, params, frozen = split_model(model)
    pixel_encoder, mine = _split(params)
    constants = {**pixel_encoder, **frozen}

    @jax.jit
    def score(arrays: Parameters, grids: Any, text_ids: Any, text_mask: Any) -> ClipBertOutput:
        model = model_def.merge(arrays)
        return model.score_texts(model.visual_embedding(grids), text_ids, text_mask)

    return lambda mine, *args: score({**mine, **constants}, *args), mine


def _split(params: Parameters) -> tuple[Parameters, Parameters]:
    """Return the parameters of the pixel encoder and all others."""
    is_before = {name: name.startswith("pixel_encoder/") for name in params}
    return (
        {name: array for name, array in params.items() if is_before[name]},
        {name: array for name, array in params.items() if not is_before[name]},
    )
