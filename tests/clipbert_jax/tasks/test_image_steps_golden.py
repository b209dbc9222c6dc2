"""Training steps on images against the original's: VQA and pretraining (golden case 04b).

Three images have 2, 1 and 2 texts. The whole train step runs, up to the optimizer's gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipbert_jax.batch import Batch
from clipbert_jax.models.model_def import Parameters
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.task import Task
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.step import Metrics, make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig
from tests.goldens import golden

from .step_golden import FLOAT32, FLOAT64, Tolerances, check_gradient, fill, make_batch

CASE = golden.load_case("04b_image_steps")
HEADS = golden.manifest()["cases"]["04b_image_steps.npz"]["heads"]

IMAGE_QA = ImageQA(num_answers=31)
# As the original: words of all captions are learned, and their losses averaged over all places. It took no
# sample of the visual tokens here.
PRETRAINING = Pretraining(masked_lm_on="all", masked_lm_average="all", num_sampled_tokens=0)


def test_image_qa_equals_the_original():
    """The gradient of the transformer; that of the pixel encoder, which takes longest: see below."""
    with jax.enable_x64(True):
        metrics, gradient = _step("vqa", IMAGE_QA, _image_qa_batch(), "float64", frozen=("pixel_encoder/",))
    check_gradient("04b_image_steps", "vqa", gradient, FLOAT64, prefix="transformer.")
    np.testing.assert_allclose(metrics["loss"], CASE["f64/vqa/loss"][0], rtol=FLOAT64.loss)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerances"), [("float64", FLOAT64), ("float32", FLOAT32)])
def test_all_gradients_of_image_qa_equal_the_original(dtype, tolerances):
    with jax.enable_x64(dtype == "float64"):
        metrics = _check("vqa", IMAGE_QA, _image_qa_batch(), dtype, tolerances)
    np.testing.assert_allclose(metrics["loss"], CASE["f64/vqa/loss"][0], rtol=tolerances.loss)


@pytest.mark.parametrize(
    ("dtype", "tolerances"), [("float64", FLOAT64), pytest.param("float32", FLOAT32, marks=pytest.mark.slow)]
)
def test_pretraining_equals_the_original(dtype, tolerances):
    counts = CASE["in/n_examples_list"]
    masked, original = fill(CASE["in/pretrain/mlm_labels"], counts, 3), -100
    batch = _batch(
        labels=fill(CASE["in/pretrain/itm_labels"], counts, 1),
        token_labels=np.where(masked == original, -1, masked),
    )
    with jax.enable_x64(dtype == "float64"):
        metrics = _check("pretrain", PRETRAINING, batch, dtype, tolerances)
    losses = [metrics[name] for name in ("loss/masked_lm", "loss/matching", "loss")]
    np.testing.assert_allclose(losses, CASE["f64/pretrain/loss"], rtol=tolerances.loss)


def _image_qa_batch() -> Batch:
    return _batch(labels=fill(CASE["in/vqa/labels"], CASE["in/n_examples_list"], 0.5))


def _batch(**labels: np.ndarray) -> Batch:
    inputs = golden.part(CASE, "in/")
    return make_batch(golden.frames(inputs["frames"])[:, None], inputs, inputs["n_examples_list"], **labels)


def _check(name: str, task: Task, batch: Batch, dtype: str, tolerances: Tolerances) -> Metrics:
    """Check the gradient of a step and its norm, and return its metrics."""
    metrics, gradient = _step(name, task, batch, dtype)
    check_gradient("04b_image_steps", name, gradient, tolerances)
    np.testing.assert_allclose(metrics["grad_norm"], CASE[f"f64/{name}/grad_norm"][0], rtol=tolerances.norm)
    return metrics


def _step(
    name: str, task: Task, batch: Batch, dtype: str, *, frozen: tuple[str, ...] = ()
) -> tuple[Metrics, Parameters]:
    """Return the metrics and the gradient of a step."""
    mesh = make_mesh(jax.devices()[:1])
    model = golden.model(task.head, HEADS[name], dtype=dtype)
    optimizer = optax.GradientTransformation(_zeros_like, _keep_gradient)
    config = TrainConfig(frozen_parts=frozen)
    model_def, state = make_train_state(model, optimizer, mesh, config)
    state, metrics = make_train_step(model_def, task, optimizer, mesh, config)(state, batch)
    return metrics, state.opt_state


def _zeros_like(params: Parameters) -> Parameters:
    return jax.tree.map(jnp.zeros_like, params)


def _keep_gradient(
    gradient: Parameters, state: Parameters, params: Parameters | None = None
) -> tuple[Parameters, Parameters]:
    """Update nothing, and let the gradient be the optimizer's state."""
    return _zeros_like(gradient), gradient
