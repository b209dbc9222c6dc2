"""Every choice of kernels computes the same scores and gradients."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models import fusion
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import ClassifierHeadConfig, PretrainingHeadConfig
from clipbert_jax.models.kernel_choices import KernelChoices, default_kernel_choices
from clipbert_jax.models.pixel_encoder import _relu

STAGES = ("res2", "res3")
PLAIN = KernelChoices(trims_last_layer=False)
CHANGES = {
    "pointwise products": {"pointwise_products": STAGES},
    "window products": {"window_products": (*STAGES, "grid_encoder")},
    "trimmed last layer": {"trims_last_layer": True},
}
HEADS = {"classifier": ClassifierHeadConfig(num_outputs=2), "pretraining": PretrainingHeadConfig()}


def small_config() -> ClipBertConfig:
    tiny = ClipBertConfig.tiny(vocab_size=32)
    return dataclasses.replace(
        tiny,
        pixel_encoder=dataclasses.replace(
            tiny.pixel_encoder, stem_width=8, stage_width=16, stage_blocks=(1, 1)
        ),
        fusion=dataclasses.replace(
            tiny.fusion, hidden_size=16, intermediate_size=32, num_heads=2, num_layers=3
        ),
    )


@functools.cache
def scores_and_gradients(written: KernelChoices, head: str) -> dict[str, jax.Array]:
    """Return scores and the gradient of every parameter of a fixed model on a fixed batch.

    Frames have odd sides, which the stem and the strides round up.
    """
    model = ClipBert(small_config(), HEADS[head], rngs=nnx.Rngs(0), kernels=written)
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (2, 2, 1, 43, 55, 3), np.uint8)
    ids = random.integers(0, 32, (2, 2, 6))
    mask = np.arange(6) < np.array([[6, 3], [4, 5]])[..., None]
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params: nnx.State) -> tuple[jax.Array, tuple]:
        output = nnx.merge(graphdef, params, rest, copy=True)(frames, ids, mask)
        leaves = jax.tree.leaves((output.scores, output.token_scores))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in leaves), (output.scores, output.token_scores)

    (_, scores), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    found = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(gradients)}
    return found | {f"scores/{i}": x for i, x in enumerate(jax.tree.leaves(scores))}


def assert_same(found: dict[str, jax.Array], expected: dict[str, jax.Array]) -> None:
    assert found.keys() == expected.keys()
    rms = {name: float(jnp.sqrt(jnp.mean(x**2))) for name, x in expected.items()}
    for name, x in expected.items():
        # Some gradients are sums that cancel, as those of the keys' biases, and nothing but rounding.
        scale = max(rms[name], 1e-2 * max(rms.values()))
        np.testing.assert_allclose(found[name], x, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("change", CHANGES)
def test_results_stay_the_same(change: str):
    changed = dataclasses.replace(PLAIN, **CHANGES[change])
    assert_same(scores_and_gradients(changed, "classifier"), scores_and_gradients(PLAIN, "classifier"))


def test_a_trimmed_layer_keeps_the_tokens_that_pretraining_reads():
    trimmed = dataclasses.replace(PLAIN, trims_last_layer=True)
    assert_same(scores_and_gradients(trimmed, "pretraining"), scores_and_gradients(PLAIN, "pretraining"))


def test_relu_has_the_gradient_of_relu():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0])
    for function in (_relu, jax.nn.relu):
        value, gradient = jax.vmap(jax.value_and_grad(function))(x)
        np.testing.assert_array_equal(value, [0, 0, 0, np.float32(1e-30), 3])
        np.testing.assert_array_equal(gradient, [0, 0, 0, 1, 1])


def test_fused_attention_is_attention(monkeypatch):
    attend_here = functools.partial(jax.nn.dot_product_attention)
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *args, implementation, **options: attend_here(*args, **options),
    )
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, (2, 5, 3, 8)) for k in keys[:3])
    query, mask = query[:, :2], jnp.array([[True] * 5, [True, False, True, True, False]])
    direction = jax.random.normal(keys[3], query.shape)

    def plainly(query, key, value):
        return fusion._mix(fusion.attend(query, key, mask), value)

    def fused(query, key, value):
        return fusion._fused_attention(query, key, value, mask)

    for function in (plainly, fused):
        output, pull_back = jax.vjp(function, query, key, value)
        results = [output, *pull_back(direction)]
        expected = results if function is plainly else expected  # noqa: F821
        for x, y in zip(results, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


class _Gpu:
    def __init__(self, compute_capability: str):
        self.compute_capability = compute_capability


@pytest.mark.parametrize(
    ("compute_capability", "expected"),
    [("7.5", False), ("8.0", True), ("9.0", True), ("10.3", False), ("gfx90a", False)],
)
def test_old_and_other_gpus_do_without_cudnn_attention(monkeypatch, compute_capability, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [_Gpu(compute_capability)])
    assert default_kernel_choices().has_fused_attention is expected
    assert default_kernel_choices("gpu").has_fused_attention
