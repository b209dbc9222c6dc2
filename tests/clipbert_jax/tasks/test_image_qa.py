from __future__ import annotations

import numpy as np

from clipbert_jax.tasks.image_qa import ImageQA

from .toy import make_batch, make_output, total_loss

TASK = ImageQA(num_answers=3)
# One image with two questions, as a video of one clip.
SCORES = np.array([[[[0.0, 2.0, -1.0], [1.0, 1.0, 1.0]]]])
SOFT_SCORES = np.array([[[1.0, 0.3, 0.0], [0.0, 0.0, 0.0]]], np.float32)


def test_binary_cross_entropies_are_added_over_the_answers():
    def softplus(x):
        return np.log(1 + np.exp(x))

    # log 2, softplus(2) - 0.3 * 2, softplus(-1); then a question without any right answer.
    expected = [np.log(2) + softplus(2) - 0.6 + softplus(-1), 3 * softplus(1)]
    batch = make_batch(SOFT_SCORES)
    np.testing.assert_allclose(TASK.losses(make_output(SCORES), batch)["bce"], [expected], rtol=1e-6)
    np.testing.assert_allclose(total_loss(TASK, make_output(SCORES), batch), np.mean(expected), rtol=1e-6)
    cut = make_batch(SOFT_SCORES, text_valid=[[True, False]])
    np.testing.assert_allclose(total_loss(TASK, make_output(SCORES), cut), expected[0], rtol=1e-6)


def test_answers_come_from_all_clips():
    scores = make_output([[[[0.0, 3.0, 2.0]], [[0.0, 0.0, 2.0]]]]).scores
    np.testing.assert_allclose(TASK.answer_logits(scores), [[[0, 1.5, 2]]])
