"""The text encoder, the fusion and the heads against the original's (golden cases 02, 02b, 03, 03b)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.heads import (
    ClassifierHeadConfig,
    HeadConfig,
    PretrainingHeadConfig,
    RegressionHeadConfig,
)
from clipbert_jax.tasks.losses import binary_cross_entropy, cross_entropy, squared_error
from clipbert_jax.tasks.retrieval import Retrieval
from tests.goldens import golden

TOLERANCE = 1e-12
HEADS: dict[str, HeadConfig] = {
    "vqa_bce": ClassifierHeadConfig(num_outputs=17),
    "qa_ce": ClassifierHeadConfig(num_outputs=17),
    "seqcls_mse": ClassifierHeadConfig(num_outputs=1),
    "mc": ClassifierHeadConfig(num_outputs=1),
    "ret_ce": ClassifierHeadConfig(num_outputs=2),
    "ret_rank": ClassifierHeadConfig(num_outputs=1),
    "regression_eval": RegressionHeadConfig(),
    "regression_train": RegressionHeadConfig(use_batch_statistics=True),
}


@pytest.fixture(scope="module", autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def pretraining_model(_float64):
    return golden.model(PretrainingHeadConfig(), "pretrain")


@pytest.fixture(scope="module")
def other_model(_float64):
    """A model whose head the tests replace."""
    return golden.model(ClassifierHeadConfig(num_outputs=2), "retrieval_2")


def _score(model, inputs, **kwargs):
    """Score each text against one clip given as a grid."""
    grid = jnp.asarray(inputs["grid"], model.config.compute_dtype)[:, None]
    text_ids, text_mask = inputs["text_input_ids"][:, None], inputs["text_input_mask"][:, None] > 0
    return _score_grid(model, grid, text_ids, text_mask, **kwargs)


@functools.partial(nnx.jit, static_argnames=("return_attention", "return_hidden_states"))
def _score_grid(model, grid, text_ids, text_mask, **kwargs):
    return model.score_texts(model.visual_embedding(grid), text_ids, text_mask, **kwargs)


# A text with a hole in its mask is a whole text too.
@pytest.mark.parametrize("name", [pytest.param("a", marks=pytest.mark.slow), "one_frame", "hole"])
def test_body_equals_the_original_layer_by_layer(pretraining_model, name):
    case = golden.load_case("02_body")
    inputs, reference = golden.part(case, f"in/{name}/"), golden.part(case, f"f64/{name}/")
    output = _score(pretraining_model, inputs, return_attention=True, return_hidden_states=True)
    length = inputs["text_input_ids"].shape[1]
    actual = {f"hidden_{i}": hidden for i, hidden in enumerate(output.hidden_states)}
    actual |= {f"attn_{i}": attention for i, attention in enumerate(output.attention)}
    actual["text_embedding"] = output.hidden_states[0][..., :length, :]
    actual["visual_embedding"] = output.hidden_states[0][..., length:, :]
    actual["sequence_output"], actual["pooled_output"] = output.hidden_states[-1], output.pooled
    assert actual.keys() == reference.keys()
    for key, array in actual.items():
        golden.assert_close(array[:, 0, 0], reference[key], TOLERANCE, key)


def test_sampled_visual_tokens_equal_the_original(pretraining_model):
    case = golden.load_case("02b_pixel_sampling")
    grid, sampled = (
        jnp.asarray(case["in/grid"], jnp.float64)[:, None],
        jnp.asarray(case["in/sampled_indices"]),
    )
    tokens = pretraining_model.visual_embedding(grid, sampled_tokens=sampled)
    golden.assert_close(tokens[:, 0], case["f64/visual_embedding"], TOLERANCE)


# Heads that have the module of another one here, and other losses.
SAME_HEADS = ("vqa_bce", "seqcls_mse", "ret_rank")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SAME_HEADS else name for name in HEADS]
)
def test_heads_equal_the_original(other_model, name):
    case, head_name = golden.load_case("03_heads"), golden.manifest()["cases"]["03_heads.npz"]["heads"][name]
    golden.replace_head(other_model, HEADS[name], head_name)
    # All dropout rates are 0: the key only says that this is training.
    dropout_key = jax.random.key(0) if name == "regression_train" else None
    output = _score(other_model, golden.part(case, f"in/{name}/"), dropout_key=dropout_key)
    reference = case[f"f64/{name}/logits"]
    golden.assert_close(output.scores.reshape(reference.shape), reference, TOLERANCE)


@pytest.mark.parametrize("name", ["qa_ce", "ret_ce", "mc"])
def test_cross_entropy_equals_the_original(name):
    case = golden.load_case("03_heads")
    losses = cross_entropy(jnp.asarray(case[f"f64/{name}/logits"]), jnp.asarray(case[f"in/{name}/labels"]))
    np.testing.assert_allclose(losses, case[f"f64/{name}/loss"], rtol=TOLERANCE)


def test_binary_cross_entropy_equals_the_original():
    case = golden.load_case("03_heads")
    losses = binary_cross_entropy(
        jnp.asarray(case["f64/vqa_bce/logits"]), jnp.asarray(case["in/vqa_bce/labels"], jnp.float64)
    )
    np.testing.assert_allclose(losses, case["f64/vqa_bce/loss"], rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["seqcls_mse", "regression_eval", "regression_train"])
def test_squared_error_equals_the_original(name):
    case = golden.load_case("03_heads")
    values, targets = case[f"f64/{name}/logits"][:, 0], jnp.asarray(case[f"in/{name}/labels"], jnp.float64)
    losses = squared_error(jnp.asarray(values), targets)
    np.testing.assert_allclose(losses, case[f"f64/{name}/loss"], rtol=TOLERANCE)


def test_rank_loss_equals_the_original():
    case = golden.load_case("03_heads")
    # Three videos, each with one matching text and two others after it.
    logits, labels = (case[name].reshape(3, 3) for name in ("f64/ret_rank/logits", "in/ret_rank/labels"))
    assert (labels == [1, 0, 0]).all()
    scores = jnp.asarray(logits)[:, None, :, None]
    output = ClipBertOutput(scores=scores, token_scores=None, pooled=jnp.zeros((3, 1, 3, 1)))
    batch = Batch(
        frames=np.zeros((3, 1, 1, 8, 8, 3), np.uint8),
        text_ids=np.zeros((3, 3, 1), np.int32),
        text_mask=np.ones((3, 3, 1), bool),
        text_valid=np.ones((3, 3), bool),
        labels=labels,
        example_mask=np.ones(3, bool),
    )
    task = Retrieval(loss="rank", margin=0.2)
    is_pair = np.asarray(task.loss_weights(batch)["rank"]) > 0
    losses = np.asarray(task.losses(output, batch)["rank"])[is_pair].reshape(3, 2)
    np.testing.assert_allclose(losses, case["f64/ret_rank/loss"], rtol=TOLERANCE)


def test_pretraining_head_equals_the_original(pretraining_model):
    case = golden.load_case("03_heads")
    inputs, reference = golden.part(case, "in/pretrain/"), golden.part(case, "f64/pretrain/")
    output = _score(pretraining_model, inputs)
    golden.assert_close(output.token_scores[:, 0, 0], reference["mlm_scores"], TOLERANCE)
    golden.assert_close(output.scores[:, 0, 0], reference["itm_scores"], TOLERANCE)
    masked_lm = cross_entropy(output.token_scores[:, 0, 0], jnp.asarray(inputs["mlm_labels"])).reshape(-1)
    golden.assert_close(masked_lm, reference["mlm_loss"], TOLERANCE)
    matching = cross_entropy(output.scores[:, 0, 0], jnp.asarray(inputs["itm_labels"]))
    golden.assert_close(matching, reference["itm_loss"], TOLERANCE)


def test_pixels_to_pretraining_scores_equal_the_original(pretraining_model):
    # The reference's pixel means were rounded to float32, an effect of 1e-8.
    _check_pixels_to_pretraining_scores(pretraining_model, forward=1e-7, loss=1e-7)


def test_float32_stays_within_tolerance():
    with jax.enable_x64(False):
        model = golden.model(PretrainingHeadConfig(), "pretrain", dtype="float32")
        _check_pixels_to_pretraining_scores(model, forward=1e-4, loss=1e-5)


def _check_pixels_to_pretraining_scores(model, *, forward, loss):
    case = golden.load_case("03b_e2e_pretrain")
    # Videos have 1 and 2 texts: the fixed text axis is filled up, and the filling left out again.
    counts = case["in/n_examples_list"]
    is_text = np.arange(counts.max()) < counts[:, None]
    text_ids = np.zeros((*is_text.shape, case["in/text_input_ids"].shape[1]), np.int32)
    text_mask = np.zeros(text_ids.shape, bool)
    text_ids[is_text], text_mask[is_text] = case["in/text_input_ids"], case["in/text_input_mask"] > 0
    frames = golden.frames(case["in/frames"])[:, None]
    output = golden.run(model, frames, text_ids, text_mask)
    token_scores, scores = output.token_scores[:, 0][is_text], output.scores[:, 0][is_text]
    golden.assert_close(token_scores, case["f64/mlm_scores"], forward)
    golden.assert_close(scores, case["f64/itm_scores"], forward)
    masked_lm = cross_entropy(token_scores, jnp.asarray(case["in/mlm_labels"]))
    matching = cross_entropy(scores, jnp.asarray(case["in/itm_labels"]))
    golden.assert_close(masked_lm.reshape(-1), case["f64/mlm_loss"], forward)
    np.testing.assert_allclose(masked_lm.mean() + matching.mean(), case["f64/total_loss"], rtol=loss)
