"""Training steps of retrieval over several clips against the original's (golden case 04)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.weights.original_names import to_original
from tests.goldens import golden

TASKS = {
    "ret_ce_mean": Retrieval(),
    "ret_ce_max": Retrieval(consensus="max"),
    "ret_ce_lse": Retrieval(consensus="log_sum_exp"),
    "ret_rank_mean": Retrieval(loss="rank"),
    "ret_rank_max": Retrieval(loss="rank", consensus="max"),
}


@functools.cache
def _model(num_outputs: int, dtype: str):
    """Return a jitted (trainable, batch) -> output, compiled once for all losses, and the parameters."""
    task = Retrieval(loss="ce" if num_outputs == 2 else "rank")
    model = golden.model(task.head, f"retrieval_{num_outputs}", dtype=dtype)
    graphdef, trainable, frozen = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def forward(trainable, frozen, batch):
        model: ClipBert = nnx.merge(graphdef, trainable, frozen)
        return model(batch.frames, batch.text_ids, batch.text_mask)

    return lambda trainable, batch: forward(trainable, frozen, batch), trainable


def _batch(inputs: dict[str, np.ndarray], frames: np.ndarray) -> Batch:
    settings = golden.manifest()["cases"]["04_consensus.npz"]["meta"]["config"]
    b, k, t = settings["B"], settings["n_clips"], settings["n_frames"]
    frames = golden.frames(frames)
    labels = inputs["labels"].reshape(b, -1)
    return Batch(
        frames=frames.reshape(b, k, t, *frames.shape[2:]),
        text_ids=inputs["text_input_ids"].reshape(*labels.shape, -1),
        text_mask=inputs["text_input_mask"].reshape(*labels.shape, -1) > 0,
        text_valid=np.ones_like(labels, bool),
        labels=labels,
        example_mask=np.ones(b, bool),
    )


def _loss_and_gradient(task: Retrieval, batch: Batch, dtype: str):
    forward, trainable = _model(task.head.num_outputs, dtype)

    def loss(trainable):
        losses, weights = task.losses(forward(trainable, batch), batch)
        return jnp.sum(losses * weights) / jnp.sum(weights)

    value, gradient = jax.value_and_grad(loss)(trainable)
    flat = {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(gradient)}
    return value, to_original({name: np.asarray(array) for name, array in flat.items()})


def _check(name: str, dtype: str, *, loss: float, norm: float, value: float) -> None:
    case = golden.load_case("04_consensus")
    inputs, reference = golden.part(case, f"in/{name}/"), golden.part(case, f"f64/{name}/")
    actual_loss, gradient = _loss_and_gradient(TASKS[name], _batch(inputs, case["in/frames"]), dtype)
    np.testing.assert_allclose(actual_loss, reference["loss"][0], rtol=loss)

    groups = golden.manifest()["cases"]["04_consensus.npz"]["meta"]["grad_groups"][name]
    squares = {key: np.sum(np.square(array, dtype=np.float64)) for key, array in gradient.items()}
    norms = [np.sqrt(sum(squares[key] for key in squares if key.startswith(f"{group}."))) for group in groups]
    assert all(any(key.startswith(f"{group}.") for group in groups) for key in gradient), "none left out"
    np.testing.assert_allclose(norms, reference["group_grad_norms"], rtol=norm)
    np.testing.assert_allclose(np.sqrt(sum(squares.values())), reference["grad_norm"][0], rtol=norm)

    for key, index in golden.part(inputs, "grad_index/").items():
        # Where the gradient vanishes by symmetry, rounding is all there is: compare with the whole norm.
        l2 = reference[f"grad_l2/{key}"]
        scale = np.abs(l2) / np.sqrt(gradient[key].size) + 1e-12 * reference["grad_norm"][0]
        error = np.abs(gradient[key].reshape(-1)[index] - reference[f"grad/{key}"]).max()
        assert error <= value * scale, f"{key}: error {error / scale:.1e} of the rms"
        np.testing.assert_allclose(np.sqrt(squares[key]), l2, rtol=norm, err_msg=key)


@pytest.mark.parametrize("name", TASKS)
def test_loss_and_gradients_equal_the_original(name):
    with jax.enable_x64(True):
        # The reference's pixel means were rounded to float32, an effect of 1e-8.
        _check(name, "float64", loss=1e-7, norm=1e-6, value=1e-5)


def test_float32_stays_within_tolerance():
    _check("ret_ce_lse", "float32", loss=1e-5, norm=3e-3, value=3e-2)
