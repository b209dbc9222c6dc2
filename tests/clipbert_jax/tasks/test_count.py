from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.tasks.count import CountQA

from .toy import make_batch, make_output, total_loss

# Two clips of a video with two questions.
SCORES = np.array([[[[1.0], [4.0]], [[3.0], [5.0]]]])


def test_squared_error_of_the_pooled_count():
    task, batch = CountQA(), make_batch([[5, 4]])
    np.testing.assert_allclose(task.counts(jnp.asarray(SCORES)), [[2, 4.5]])
    np.testing.assert_allclose(task.losses(make_output(SCORES), batch)["mse"], [[9, 0.25]], rtol=1e-6)
    assert float(total_loss(task, make_output(SCORES), batch)) == pytest.approx(4.625)


def test_a_missing_question_weighs_nothing():
    task, batch = CountQA(), make_batch([[5, -1]], text_valid=[[True, False]])
    np.testing.assert_array_equal(task.loss_weights(batch)["mse"], [[1, 0]])
    assert float(total_loss(task, make_output(SCORES), batch)) == pytest.approx(9)


def test_counts_do_not_grow_with_the_number_of_clips():
    task = CountQA(consensus="log_sum_exp")
    log_mean_exp = np.log((np.exp(1) + np.exp(3)) / 2), np.log((np.exp(4) + np.exp(5)) / 2)
    np.testing.assert_allclose(task.counts(jnp.asarray(SCORES)), [log_mean_exp], rtol=1e-6)
    for num_clips in (1, 2, 16):
        counts = task.counts(jnp.full((1, num_clips, 1, 1), 2.5))
        np.testing.assert_allclose(counts, [[2.5]], rtol=1e-6)


def test_the_head_is_told_how_to_normalise():
    heads = [CountQA(use_batch_statistics=wanted).head for wanted in (False, True)]
    assert [head.use_batch_statistics for head in heads] == [False, True]
    assert [head.num_outputs for head in heads] == [1, 1]
