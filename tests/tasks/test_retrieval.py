from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.losses import cross_entropy
from clipbert_jax.tasks.retrieval import Retrieval

BOTH = pytest.mark.parametrize("loss", ["ce", "rank"])


def _batch(labels, text_valid=None, example_mask=None) -> Batch:
    labels = np.asarray(labels)
    b, n = labels.shape
    return Batch(
        frames=np.zeros((b, 3, 1, 8, 8, 3), np.uint8),
        text_ids=np.zeros((b, n, 4), np.int32),
        text_mask=np.ones((b, n, 4), bool),
        text_valid=np.ones((b, n), bool) if text_valid is None else np.asarray(text_valid),
        labels=labels,
        example_mask=np.ones(b, bool) if example_mask is None else np.asarray(example_mask),
    )


def _output(task: Retrieval, labels, seed: int = 0) -> ClipBertOutput:
    shape = (len(labels), 3, len(labels[0]), task.head.num_outputs)
    scores = jax.random.normal(jax.random.key(seed), shape)
    return ClipBertOutput(scores=scores, token_scores=None, pooled=jnp.zeros((*shape[:3], 8)))


def _mean_loss(task, output, batch):
    (losses,), (weights,) = task.losses(output, batch).values(), task.loss_weights(batch).values()
    return float(jnp.sum(losses * weights) / jnp.sum(weights))


@BOTH
def test_missing_texts_and_videos_change_nothing(loss):
    task = Retrieval(loss=loss)
    labels = [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    text_valid = [[True, True, False], [True, True, False], [True, True, True]]
    batch = _batch(labels, text_valid, example_mask=[True, True, False])
    output = _output(task, labels)
    kept = ClipBertOutput(scores=output.scores[:2, :, :2], token_scores=None, pooled=output.pooled[:2, :, :2])
    expected = _mean_loss(task, kept, _batch([[1, 0], [1, 0]]))
    np.testing.assert_allclose(_mean_loss(task, output, batch), expected, rtol=1e-6)


def test_rank_pairs_every_match_with_every_mismatch_of_its_video():
    task = Retrieval(loss="rank", margin=0.3)
    labels = [[1, 0, 1, 0], [0, 0, 1, 0]]
    output = _output(task, labels)
    chance = np.asarray(jax.nn.sigmoid(output.scores.mean(axis=1)[..., 0]))
    pairs = [(0, i, j) for i in (0, 2) for j in (1, 3)] + [(1, 2, j) for j in (0, 1, 3)]
    expected = np.mean([max(0.0, 0.3 + chance[b, j] - chance[b, i]) for b, i, j in pairs])
    np.testing.assert_allclose(_mean_loss(task, output, _batch(labels)), expected, rtol=1e-5)


def test_match_logit_is_the_logit_of_the_original_score():
    ce, rank = Retrieval(), Retrieval(loss="rank")
    scores = _output(ce, [[1, 0]]).scores
    softmax = jax.nn.softmax(scores.mean(axis=1))[..., 1]
    np.testing.assert_allclose(jax.nn.sigmoid(ce.match_logit(scores)), softmax, rtol=1e-5)
    scores = _output(rank, [[1, 0]]).scores
    np.testing.assert_allclose(rank.match_logit(scores), scores.mean(axis=1)[..., 0], rtol=1e-6)


def test_match_logit_still_ranks_where_probabilities_saturate():
    scores = jnp.array([[[[0.0, 40.0], [0.0, 41.0]]]])
    assert np.ptp(jax.nn.softmax(scores)[..., 1]) == 0.0
    assert np.ptp(Retrieval().match_logit(scores)) == 1.0


def test_cross_entropy_ignores_negative_labels():
    logits = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    losses = cross_entropy(logits, jnp.array([0, -100]))
    np.testing.assert_allclose(losses, [np.log(1 + np.exp(-2.0)), 0.0], rtol=1e-6)
    gradient = jax.grad(lambda x: cross_entropy(x, jnp.array([0, -100])).sum())(logits)
    np.testing.assert_array_equal(gradient[1], 0.0)
