"""What must hold for any weights: which values may change the scores and which may not."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import ClassifierHeadConfig, PretrainingHeadConfig
from clipbert_jax.models.layers import dropout
from clipbert_jax.models.pixel_encoder import grid_size
from clipbert_jax.models.visual_embedding import draw_token_sample
from clipbert_jax.weights.flat import flat_parameters, load_flat_parameters

TINY = ClipBertConfig.tiny()
HEAD = ClassifierHeadConfig(num_outputs=2)

call = nnx.jit(
    lambda model, *inputs, **options: model(*inputs, **options),
    static_argnames=("return_attention", "return_hidden_states"),
)
encode = nnx.jit(lambda model, *inputs, **options: model.encode_video(*inputs, **options))
score = nnx.jit(lambda model, *inputs: model.score_texts(*inputs))


@pytest.fixture(scope="module")
def model():
    return ClipBert(TINY, HEAD, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, 2, 48, 64, 3), np.uint8)
    text_ids = rng.integers(1, 256, (2, 2, 7))
    text_mask = np.arange(7) < np.array([[7, 4], [2, 5]])[..., None]
    return frames, text_ids, text_mask


def _with_pixel_encoder(config, **changes):
    return dataclasses.replace(config, pixel_encoder=dataclasses.replace(config.pixel_encoder, **changes))


def _with_fusion(config, **changes):
    return dataclasses.replace(config, fusion=dataclasses.replace(config.fusion, **changes))


def test_cached_visual_tokens_give_the_scores_of_one_call(model, inputs):
    frames, text_ids, text_mask = inputs
    scores = score(model, encode(model, frames), text_ids, text_mask).scores
    assert scores.shape == (2, 3, 2, 2)
    np.testing.assert_allclose(scores, call(model, *inputs).scores, rtol=1e-5, atol=1e-6)


def test_every_clip_and_text_is_scored_alone(model, inputs):
    frames, text_ids, text_mask = inputs
    one = call(model, frames[1:, 2:], text_ids[1:, 1:], text_mask[1:, 1:]).scores
    np.testing.assert_allclose(one[0, 0, 0], call(model, *inputs).scores[1, 2, 1], rtol=1e-4, atol=1e-5)


def test_text_padding_changes_nothing(model, inputs):
    frames, text_ids, text_mask = inputs
    scores = call(model, *inputs).scores
    other_ids = np.where(text_mask, text_ids, 255 - text_ids)
    np.testing.assert_array_equal(call(model, frames, other_ids, text_mask).scores, scores)
    longer = [np.pad(array, ((0, 0), (0, 0), (0, 4))) for array in (text_ids, text_mask)]
    np.testing.assert_allclose(call(model, frames, *longer).scores, scores, rtol=1e-4, atol=1e-5)


def test_attention_rows_sum_to_one_and_skip_padding(model, inputs):
    output = call(model, *inputs, return_attention=True, return_hidden_states=True)
    num_tokens = 7 + np.prod(grid_size(TINY.pixel_encoder, 48, 64))
    assert len(output.attention) == TINY.fusion.num_layers
    assert len(output.hidden_states) == TINY.fusion.num_layers + 1
    for attention in output.attention:
        assert attention.shape == (2, 3, 2, TINY.fusion.num_heads, num_tokens, num_tokens)
        np.testing.assert_allclose(attention.sum(axis=-1), 1.0, rtol=1e-5)
        to_text = np.moveaxis(np.asarray(attention[..., :7]), 1, -1)  # b n heads s l k
        assert not to_text.transpose(0, 1, 4, 2, 3, 5)[~inputs[2]].any()


def test_split_finds_exactly_the_trainable_parameters():
    config = _with_pixel_encoder(TINY, num_frozen_stages=2, is_norm_trainable=True)
    model = ClipBert(config, HEAD, rngs=nnx.Rngs(0))
    _, trainable, _ = nnx.split(model, nnx.Param, ...)
    names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(trainable)}
    frozen = set(flat_parameters(model)) - names
    expected = {
        name
        for name in flat_parameters(model)
        if name.startswith(("pixel_encoder/stem/", "pixel_encoder/stages/res2/"))
        or name.endswith(("norm/mean", "norm/variance"))
    }
    assert frozen == expected


@pytest.mark.parametrize("is_norm_trainable", [False, True])
def test_gradient_reaches_every_trainable_parameter(inputs, is_norm_trainable):
    config = _with_pixel_encoder(TINY, is_norm_trainable=is_norm_trainable)
    graphdef, trainable, frozen = nnx.split(ClipBert(config, HEAD, rngs=nnx.Rngs(0)), nnx.Param, ...)

    def loss(trainable):
        scores = nnx.merge(graphdef, trainable, frozen, copy=True)(*inputs).scores
        return jnp.sum(jax.nn.log_softmax(scores)[..., 0])

    gradient = nnx.to_flat_state(jax.jit(jax.grad(loss))(trainable))
    # A constant added to all keys cancels in the softmax, so a key's bias never learns.
    silent = [path for path, leaf in gradient if np.abs(leaf.get_value()).max() < 1e-7]
    assert {path[-2:] for path in silent} <= {("key", "bias")}


def test_bfloat16_is_close_to_float32(inputs):
    head = PretrainingHeadConfig()
    outputs = {}
    for dtype in ("float32", "bfloat16"):
        model = ClipBert(dataclasses.replace(TINY, compute_dtype=dtype), head, rngs=nnx.Rngs(0))
        assert all(array.dtype == jnp.float32 for array in flat_parameters(model).values())
        outputs[dtype] = call(model, *inputs)
        assert outputs[dtype].scores.dtype == outputs[dtype].token_scores.dtype == jnp.float32
    assert outputs["bfloat16"].pooled.dtype == jnp.bfloat16
    for name in ("scores", "token_scores"):
        exact, rounded = (getattr(outputs[dtype], name) for dtype in ("float32", "bfloat16"))
        error = np.sqrt(np.mean((exact - rounded) ** 2) / np.mean(exact**2))
        assert 1e-5 < error < 5e-2, name


def test_float64_without_64_bit_mode_is_refused():
    with pytest.raises(ValueError, match="JAX_ENABLE_X64"):
        ClipBert(dataclasses.replace(TINY, compute_dtype="float64"), HEAD, rngs=nnx.Rngs(0))


def test_dropout_is_a_function_of_the_key(inputs):
    config = _with_fusion(TINY, dropout_rate=0.1, attention_dropout_rate=0.1)
    model = ClipBert(config, HEAD, rngs=nnx.Rngs(0))
    first, again, other = (
        call(model, *inputs, dropout_key=jax.random.key(seed)).scores for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first - call(model, *inputs).scores).max() > 1e-3


def test_dropout_keeps_the_mean_and_drops_its_rate():
    x = dropout(jnp.ones(100_000), 0.25, jax.random.key(0))
    assert abs(float((x == 0).mean()) - 0.25) < 0.01
    np.testing.assert_allclose(x[x > 0], 1 / 0.75, rtol=1e-6)


def test_token_sample_is_a_sorted_subset():
    sample = np.asarray(draw_token_sample(jax.random.key(0), 144, 100))
    assert sample.shape == (100,)
    assert (np.diff(sample) > 0).all()
    assert sample[0] >= 0
    assert sample[-1] < 144
    assert (sample != np.asarray(draw_token_sample(jax.random.key(1), 144, 100))).any()
    np.testing.assert_array_equal(draw_token_sample(jax.random.key(0), 49, 100), np.arange(49))


def test_sampled_tokens_are_those_of_the_whole_grid(model, inputs):
    whole = encode(model, inputs[0])
    sampled = encode(model, inputs[0], sampled_tokens=jnp.array([1, 4]))
    np.testing.assert_allclose(sampled, whole[:, :, [1, 4]], rtol=1e-5, atol=1e-6)


def test_inputs_that_do_not_fit_are_refused_with_a_remedy(inputs):
    frames, text_ids, text_mask = inputs
    model = ClipBert(_with_fusion(TINY, max_grid_columns=3, max_text_length=6), HEAD, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"4 columns, but .* 24 x 3: .* fusion.max_grid_columns"):
        model.encode_video(frames)
    with pytest.raises(ValueError, match=r"7 tokens .* 6 rows .* fusion.max_text_length"):
        model.score_texts(model.encode_video(frames[..., :48, :]), text_ids, text_mask)
    with pytest.raises(ValueError, match="8x48 pixels leave no grid cell: give at least 9"):
        model.encode_video(frames[..., :8, :48, :])


def test_weights_move_between_models_by_name(model, inputs):
    other = ClipBert(TINY, HEAD, rngs=nnx.Rngs(1))
    assert np.abs(call(other, *inputs).scores - call(model, *inputs).scores).max() > 1e-3
    load_flat_parameters(other, flat_parameters(model))
    np.testing.assert_array_equal(call(other, *inputs).scores, call(model, *inputs).scores)
