from __future__ import annotations

import numpy as np

from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA

from .toy import make_batch, make_output, total_loss

TASK = MultipleChoiceQA()
# Two clips of two videos; the second has two options, and what stands in the place of a third scores best.
SCORES = np.array([[[1.0, 3.0, 0.0], [1.0, -1.0, 2.0]], [[0.0, 2.0, 50.0], [0.0, 0.0, 90.0]]])[..., None]
TEXT_VALID = [[True, True, True], [True, True, False]]


def test_options_compete_with_those_of_their_video():
    batch = make_batch([2, 0], text_valid=TEXT_VALID)
    losses = TASK.losses(make_output(SCORES), batch)["ce"]
    # Means of the clips: (1, 1, 1), and (0, 1) without the missing option.
    expected = [np.log(3), np.log(1 + np.e)]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_array_equal(TASK.loss_weights(batch)["ce"], [1, 1])
    np.testing.assert_allclose(total_loss(TASK, make_output(SCORES), batch), np.mean(expected), rtol=1e-6)


def test_a_missing_video_weighs_nothing():
    batch = make_batch([2, -1], text_valid=[[True] * 3, [False] * 3], example_mask=[True, False])
    np.testing.assert_array_equal(TASK.loss_weights(batch)["ce"], [1, 0])
    np.testing.assert_allclose(total_loss(TASK, make_output(SCORES), batch), np.log(3), rtol=1e-6)


def test_the_option_with_the_highest_pooled_score_is_chosen():
    by_mean, by_max = TASK, MultipleChoiceQA(consensus="max")
    scores = make_output([[[[1.0], [2.0]], [[1.5], [0.0]], [[1.5], [0.0]]]]).scores
    np.testing.assert_allclose(by_mean.choice_logits(scores), [[4 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(by_max.choice_logits(scores), [[1.5, 2.0]])
