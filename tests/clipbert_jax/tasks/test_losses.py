from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from clipbert_jax.tasks.losses import binary_cross_entropy, cross_entropy, squared_error


def test_cross_entropy_ignores_negative_labels():
    logits = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    losses = cross_entropy(logits, jnp.array([0, -100]))
    np.testing.assert_allclose(losses, [np.log(1 + np.exp(-2.0)), 0.0], rtol=1e-6)
    gradient = jax.grad(lambda x: cross_entropy(x, jnp.array([0, -100])).sum())(logits)
    np.testing.assert_array_equal(gradient[1], 0.0)


def test_binary_cross_entropy():
    # -t log s(x) - (1 - t) log (1 - s(x)), where 1 - s(2) = s(-2).
    logits, targets = jnp.array([0.0, 2.0, 2.0, -2.0]), jnp.array([0.7, 1.0, 0.0, 0.25])
    of_2, of_minus_2 = np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))
    expected = [np.log(2), of_2, of_minus_2, 0.25 * of_minus_2 + 0.75 * of_2]
    np.testing.assert_allclose(binary_cross_entropy(logits, targets), expected, rtol=1e-6)


def test_binary_cross_entropy_is_stable():
    logits, targets = jnp.array([1e4, -1e4, 1e4, -1e4, 30.0]), jnp.array([0.0, 1.0, 1.0, 0.0, 1.0])
    losses = binary_cross_entropy(logits, targets)
    np.testing.assert_allclose(losses, [1e4, 1e4, 0, 0, np.exp(-30)], rtol=1e-6)
    gradient = jax.grad(lambda x: binary_cross_entropy(x, targets).sum())(logits)
    np.testing.assert_allclose(gradient, [1, -1, 0, 0, 0], atol=1e-7)


def test_squared_error():
    np.testing.assert_array_equal(squared_error(jnp.array([1.5, -1.0]), jnp.array([3.0, -1.0])), [2.25, 0])
