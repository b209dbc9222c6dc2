"""Groups, schedule and clipping of the optimizer, on two-parameter models."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipbert_jax.training.optimizer import (
    OptimizerConfig,
    is_decayed,
    learning_rate_schedule,
    make_optimizer,
)


def test_the_schedule_rises_then_falls_to_zero():
    rate = learning_rate_schedule(2.0, num_steps=10, warmup_share=0.4)
    np.testing.assert_allclose(
        [rate(count) for count in range(11)],
        [0.5, 1.0, 1.5, 2.0, 10 / 6, 8 / 6, 1.0, 4 / 6, 2 / 6, 0.0, 0.0],
        rtol=1e-6,
    )


def test_without_warmup_the_first_step_is_nearly_at_the_peak():
    assert float(learning_rate_schedule(1.0, num_steps=4, warmup_share=0.0)(0)) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fusion/layers/0/query/kernel", True),
        ("text_encoder/word_embeddings/embedding", True),
        ("fusion/layers/0/query/bias", False),
        ("head/decoder_bias", False),
        ("fusion/layers/0/output_layer_norm/scale", False),
    ],
)
def test_biases_and_norms_do_not_decay(name, expected):
    assert is_decayed(name) is expected


def update(config, params, grads):
    optimizer = make_optimizer(config, num_steps=100)
    return optimizer.update(grads, optimizer.init(params), params)[0]


def test_groups_have_their_own_learning_rate_and_decay():
    config = OptimizerConfig(
        pixel_encoder_learning_rate=1.0,
        transformer_learning_rate=0.1,
        weight_decay=0.5,
        warmup_share=0.01,
        max_grad_norm=0.0,
        eps=0.0,
    )
    params = {
        "pixel_encoder/stem/kernel": jnp.array([2.0]),
        "fusion/query/kernel": jnp.array([2.0]),
        "fusion/query/bias": jnp.array([2.0]),
    }
    updates = update(config, params, {name: jnp.array([3.0]) for name in params})
    # The first step of Adam is the sign of the gradient; decay adds 0.5 * 2.
    assert float(updates["pixel_encoder/stem/kernel"][0]) == pytest.approx(-1.0 * (1 + 1), rel=1e-5)
    assert float(updates["fusion/query/kernel"][0]) == pytest.approx(-0.1 * (1 + 1), rel=1e-5)
    assert float(updates["fusion/query/bias"][0]) == pytest.approx(-0.1, rel=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    # A large eps makes Adam's step proportional to the gradient, so that clipping is visible.
    config = OptimizerConfig(max_grad_norm=1.0, eps=1e3, weight_decay=0.0)
    params = {"a/kernel": jnp.zeros(1), "pixel_encoder/b/kernel": jnp.zeros(1)}
    grads = {"a/kernel": jnp.array([30.0]), "pixel_encoder/b/kernel": jnp.array([40.0])}
    scaled = {name: grad / 50 for name, grad in grads.items()}
    clipped, expected = update(config, params, grads), update(config, params, scaled)
    for name in params:
        np.testing.assert_allclose(clipped[name], expected[name], rtol=1e-5)
    assert float(optax.tree.norm(clipped)) > 0
