from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from clipbert_jax.tasks.retrieval import Retrieval

from .toy import make_batch, make_output, total_loss


def _scores(num_outputs: int, num_texts: int, num_videos: int = 1) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((num_videos, 3, num_texts, num_outputs))


def test_cross_entropy_of_every_real_text():
    # Means of two clips: (0, 1), (1, 0), and what stands in the place of a third text.
    output = make_output([[[[0, 2], [1, 1], [9, 0]], [[0, 0], [1, -1], [9, 0]]]])
    batch = make_batch([[1, 1, 0]], text_valid=[[True, True, False]])
    expected = [np.log(1 + np.exp(-1)), np.log(1 + np.e)]
    np.testing.assert_allclose(Retrieval().losses(output, batch)["ce"][0, :2], expected, rtol=1e-6)
    np.testing.assert_allclose(total_loss(Retrieval(), output, batch), np.mean(expected), rtol=1e-6)


def test_rank_pairs_every_match_with_every_mismatch_of_its_video():
    task = Retrieval(loss="rank", margin=0.3)
    labels, scores = [[1, 0, 1, 0], [0, 0, 1, 0]], _scores(1, num_texts=4, num_videos=2)
    chance = 1 / (1 + np.exp(-scores.mean(axis=1)[..., 0]))
    pairs = [(0, i, j) for i in (0, 2) for j in (1, 3)] + [(1, 2, j) for j in (0, 1, 3)]
    expected = np.mean([max(0.0, 0.3 + chance[b, j] - chance[b, i]) for b, i, j in pairs])
    actual = total_loss(task, make_output(scores), make_batch(labels))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_match_logit_is_the_logit_of_the_original_score():
    ce, rank = Retrieval(), Retrieval(loss="rank")
    scores = make_output(_scores(2, num_texts=2)).scores
    softmax = jax.nn.softmax(scores.mean(axis=1))[..., 1]
    np.testing.assert_allclose(jax.nn.sigmoid(ce.match_logit(scores)), softmax, rtol=1e-5)
    np.testing.assert_array_equal(ce.choice_logits(scores), ce.match_logit(scores))
    scores = make_output(_scores(1, num_texts=2)).scores
    np.testing.assert_allclose(rank.match_logit(scores), scores.mean(axis=1)[..., 0], rtol=1e-6)


def test_match_logit_still_ranks_where_probabilities_saturate():
    scores = jnp.array([[[[0.0, 40.0], [0.0, 41.0]]]])
    assert np.ptp(jax.nn.softmax(scores)[..., 1]) == 0.0
    assert np.ptp(Retrieval().match_logit(scores)) == 1.0
