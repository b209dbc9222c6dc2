from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.models.consensus import pool_clips
from clipbert_jax.tasks.losses import cross_entropy


@pytest.mark.parametrize(
    ("consensus", "expected"),
    [
        ("mean", [1.0, 2.0]),
        ("max", [2.0, 4.0]),
        ("log_sum_exp", [np.log((1 + np.e**2) / 2), np.log((1 + np.e**4) / 2)]),
    ],
)
def test_pools_over_clips(consensus, expected):
    scores = jnp.array([[[[0.0, 4.0]], [[2.0, 0.0]]]])  # 1 video, 2 clips, 1 text, 2 answers
    np.testing.assert_allclose(pool_clips(scores, consensus)[0, 0], expected, rtol=1e-6)


def test_log_sum_exp_gives_the_original_training_loss():
    scores = jax.random.normal(jax.random.key(0), (3, 4, 2, 5))
    labels = jnp.array([[0, 1], [2, 3], [4, 0]])
    losses = cross_entropy(pool_clips(scores, "log_sum_exp"), labels)
    clips_and_answers = jax.nn.logsumexp(scores, axis=(1, 3))
    at_label = jnp.take_along_axis(scores, labels[:, None, :, None], axis=-1)[..., 0]
    original = clips_and_answers - jax.nn.logsumexp(at_label, axis=1)
    np.testing.assert_allclose(losses, original, rtol=1e-5)
