from __future__ import annotations

import numpy as np

from clipbert_jax.tasks.open_ended_qa import OpenEndedQA

from .toy import make_batch, make_output, total_loss

# Two clips of a video with two questions and three answers.
SCORES = np.array([[[[0.0, 2.0, 1.0], [4.0, 0.0, 0.0]], [[0.0, 4.0, 1.0], [0.0, 0.0, 0.0]]]])


def test_cross_entropy_of_the_pooled_scores():
    task, batch = OpenEndedQA(num_answers=3), make_batch([[2, 0]])
    # Means of the clips: (0, 3, 1) and (2, 0, 0).
    expected = [np.log(1 + np.exp(3) + np.e) - 1, np.log(np.exp(2) + 2) - 2]
    losses = task.losses(make_output(SCORES), batch)["ce"]
    np.testing.assert_allclose(losses, [expected], rtol=1e-6)
    np.testing.assert_allclose(total_loss(task, make_output(SCORES), batch), np.mean(expected), rtol=1e-6)


def test_a_missing_question_weighs_nothing():
    task, batch = OpenEndedQA(num_answers=3), make_batch([[2, -1]], text_valid=[[True, False]])
    np.testing.assert_array_equal(task.loss_weights(batch)["ce"], [[1, 0]])
    expected = np.log(1 + np.exp(3) + np.e) - 1
    np.testing.assert_allclose(total_loss(task, make_output(SCORES), batch), expected, rtol=1e-6)


def test_log_sum_exp_trains_as_the_original():
    """Logsumexp over clips and answers minus logsumexp over clips at the label."""
    task, batch = OpenEndedQA(num_answers=3, consensus="log_sum_exp"), make_batch([[1, 2]])
    weights = np.exp(SCORES[0])
    expected = [np.log(weights[:, n].sum() / weights[:, n, label].sum()) for n, label in enumerate([1, 2])]
    np.testing.assert_allclose(task.losses(make_output(SCORES), batch)["ce"], [expected], rtol=1e-5)


def test_the_answer_depends_on_the_consensus():
    scores = make_output([[[[0.0, 3.0, 2.0]], [[0.0, 0.0, 2.0]]]]).scores
    answers = [
        int(OpenEndedQA(num_answers=3, consensus=consensus).answer_logits(scores).argmax())
        for consensus in ("mean", "max", "log_sum_exp")
    ]
    assert answers == [2, 1, 1]
