from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from clipbert_jax.evaluation.score import Queries, score_queries
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.model_def import split_model
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.training.step import forward

from .toy import make_batch, make_output, small_model

# Two videos with two captions of three tokens; the second video's first caption is missing.
LABELS = [[1, 0], [1, 1]]
TEXT_VALID = [[True, True], [False, True]]
TOKEN_LABELS = np.array([[[-1, 3, 0], [2, -1, -1]], [[1, 1, 1], [-1, -1, 4]]])
BATCH = make_batch(LABELS, text_valid=TEXT_VALID, token_labels=TOKEN_LABELS)
IN_MATCHING = [[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]]
IN_ALL = [[[0, 1, 1], [1, 0, 0]], [[0, 0, 0], [0, 0, 1]]]
OF_REAL_TEXTS = [[[1, 1, 1], [1, 1, 1]], [[0, 0, 0], [1, 1, 1]]]
EACH_PLACE = pytest.mark.parametrize(
    ("masked_lm_on", "learned"), [("matching", IN_MATCHING), ("all", IN_ALL)], ids=["matching", "everywhere"]
)
EACH_AVERAGE = pytest.mark.parametrize("masked_lm_average", ["masked", "all"])


@EACH_PLACE
@EACH_AVERAGE
def test_which_words_are_learned_and_counted(masked_lm_on, learned, masked_lm_average):
    task = Pretraining(masked_lm_on=masked_lm_on, masked_lm_average=masked_lm_average)
    # Each token's right word has a logit of its own, all other four words have 0.
    right = np.arange(12.0).reshape(TOKEN_LABELS.shape) / 4
    token_scores = right[..., None] * (TOKEN_LABELS[..., None] == np.arange(5))
    output = make_output(np.zeros((2, 1, 2, 2)), token_scores[:, None])
    losses, weights = task.losses(output, BATCH)["masked_lm"], task.loss_weights(BATCH)["masked_lm"]

    np.testing.assert_array_equal(weights, learned if masked_lm_average == "masked" else OF_REAL_TEXTS)
    np.testing.assert_allclose(losses, learned * np.log(1 + 4 * np.exp(-right)), rtol=1e-6)


def test_matching_learns_from_every_caption():
    task = Pretraining()
    # Means of two clips: the lead of "match" is 1 for the first caption, -2 for all others.
    lead = np.array([[[2.0, -2.0], [-2.0, -2.0]], [[0.0, -2.0], [-2.0, -2.0]]]).swapaxes(0, 1)
    scores = np.stack([np.zeros_like(lead), lead], axis=-1)
    output = make_output(scores, np.zeros((2, 2, 2, 3, 5)))
    pooled = [[1, -2], [-2, -2]]
    np.testing.assert_allclose(task.match_logit(output.scores), pooled, rtol=1e-6)
    np.testing.assert_allclose(task.choice_logits(output.scores), pooled, rtol=1e-6)
    # -log of the sigmoid of what speaks for the label.
    expected = np.log(1 + np.exp(-np.array([[1, 2], [-2, -2]])))
    np.testing.assert_allclose(task.losses(output, BATCH)["matching"], expected, rtol=1e-6)
    np.testing.assert_array_equal(task.loss_weights(BATCH)["matching"], [[1, 1], [0, 1]])


def test_words_are_predicted_from_all_clips():
    token_scores = np.random.default_rng(0).standard_normal((2, 3, 2, 3, 5))
    output = make_output(np.zeros((2, 3, 2, 2)), token_scores)
    logits = Pretraining().token_logits(output)
    np.testing.assert_allclose(logits, token_scores.mean(axis=1), rtol=1e-5, atol=1e-6)
    logits = Pretraining(consensus="max").token_logits(output)
    np.testing.assert_allclose(logits, token_scores.max(axis=1), rtol=1e-6)


@pytest.fixture
def seen(monkeypatch) -> list[int]:
    """Note how many visual tokens texts are scored against."""
    counts, score_texts = [], ClipBert.score_texts

    def noting(self, visual_tokens, *args, **kwargs):
        counts.append(visual_tokens.shape[2])
        return score_texts(self, visual_tokens, *args, **kwargs)

    monkeypatch.setattr(ClipBert, "score_texts", noting)
    return counts


def test_training_sees_some_visual_tokens(seen):
    """A frame has 8. Nothing else here is random: without a sample, keys do not matter."""
    model = small_model(Pretraining())
    model_def, params, frozen = split_model(model)
    arrays, keys = {**params, **frozen}, [jax.random.key(seed) for seed in (0, 0, 1)]

    def scores_of_keys(num_sampled_tokens: int) -> list[np.ndarray]:
        task = dataclasses.replace(Pretraining(), num_sampled_tokens=num_sampled_tokens)
        score = jax.jit(lambda arrays, key: forward(model_def.merge(arrays), task, BATCH, key).scores)
        return [np.asarray(score(arrays, key)) for key in keys]

    first, again, other = scores_of_keys(5)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4
    first, _, other = scores_of_keys(0)
    np.testing.assert_array_equal(first, other)
    scores_of_keys(100)
    assert seen == [5, 8, 8]


def test_evaluation_sees_all_visual_tokens(seen):
    task = Pretraining(num_sampled_tokens=5)
    model_def, params, frozen = split_model(small_model(task))
    scorer = Scorer(model_def, {**params, **frozen})
    found = score_queries(
        scorer,
        lambda output: {"match": task.match_logit(output.scores)},
        [(BATCH.frames, np.ones(2, bool))],
        Queries(text_ids=BATCH.text_ids, text_mask=BATCH.text_mask, video=np.arange(2)),
        num_clips=[2],
    )
    assert seen == [8]
    assert found[2]["match"].shape == (2, 2)
