"""What holds for every task: padding does not count, and any number of clips will do."""

from __future__ import annotations

import dataclasses
import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.batch import Batch
from clipbert_jax.evaluation.score import Queries, score_queries
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.consensus import Consensus
from clipbert_jax.models.model_def import split_model
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.tasks.task import Task
from clipbert_jax.training.step import forward

from .toy import make_batch, make_output, small_model, total_loss

VOCAB_SIZE = 7
TASKS = {
    "retrieval_ce": Retrieval(),
    "retrieval_rank": Retrieval(loss="rank"),
    "multiple_choice": MultipleChoiceQA(),
    "open_ended_qa": OpenEndedQA(num_answers=5),
    "image_qa": ImageQA(num_answers=5),
    "count": CountQA(),
    "pretraining": Pretraining(),
    "pretraining_as_original": Pretraining(masked_lm_on="all", masked_lm_average="all"),
}
EACH_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
LABELS = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])

loss_of = jax.jit(total_loss, static_argnums=0)
loss_and_gradient = jax.jit(jax.value_and_grad(total_loss, argnums=1), static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def with_each_consensus(
    task: Task, output: ClipBertOutput, batch: Batch
) -> dict[Consensus, tuple[jax.Array, ClipBertOutput]]:
    """Return the loss and its gradient."""
    tasks = {consensus: dataclasses.replace(task, consensus=consensus) for consensus in get_args(Consensus)}
    value_and_gradient = jax.value_and_grad(total_loss, argnums=1)
    return {consensus: value_and_gradient(task, output, batch) for consensus, task in tasks.items()}


def example(task: Task, *, num_clips: int = 2, scale: float = 1.0) -> tuple[ClipBertOutput, Batch]:
    """Return random scores and labels of 3 videos with 3 texts."""
    random, labels, token_labels, token_scores = np.random.default_rng(0), LABELS, None, None
    match task:
        case MultipleChoiceQA():
            labels = np.array([1, 0, 1])
        case OpenEndedQA() | CountQA():
            labels = random.integers(0, 5, (3, 3))
        case ImageQA():
            labels = random.random((3, 3, 5), np.float32)
        case Pretraining():
            token_labels = random.integers(-1, VOCAB_SIZE, (3, 3, 4))
            token_scores = scale * random.standard_normal((3, num_clips, 3, 4, VOCAB_SIZE))
    batch = make_batch(labels, text_valid=np.ones((3, 3), bool), token_labels=token_labels)
    num_outputs = getattr(task.head, "num_outputs", 2)
    scores = scale * random.standard_normal((3, num_clips, 3, num_outputs))
    return make_output(scores, token_scores), batch


@EACH_TASK
def test_losses_and_weights_have_the_same_names_and_shapes(task):
    output, batch = example(task)
    assert isinstance(task, Task)
    losses, weights = jax.eval_shape(lambda: (task.losses(output, batch), task.loss_weights(batch)))
    assert {name: x.shape for name, x in losses.items()} == {name: x.shape for name, x in weights.items()}


@EACH_TASK
def test_missing_texts_and_videos_change_nothing(task):
    """The third text of each video is missing, and so is the third video."""
    output, batch = example(task)
    text_valid = np.tile([True, True, False], (3, 1))
    batch = dataclasses.replace(batch, text_valid=text_valid, example_mask=np.array([True, True, False]))
    value, gradient = loss_and_gradient(task, output, batch)
    assert value > 0

    cut = jax.tree.map(lambda x: x[:2, :, :2], output)
    kept = jax.tree.map(lambda x: x[:2, :2] if x.shape[1:2] == (3,) else x[:2], batch)
    np.testing.assert_allclose(value, loss_of(task, cut, kept), rtol=1e-6)

    is_padding = np.ones((3, 3), bool)
    is_padding[:2, :2] = False
    for part in jax.tree.leaves((gradient.scores, gradient.token_scores)):
        by_text = np.abs(np.moveaxis(part, 1, -1)).reshape(3, 3, -1).sum(-1)
        np.testing.assert_array_equal(by_text[is_padding], 0)
        assert by_text[~is_padding].sum() > 0

    scribbled = jax.tree.map(lambda x: jnp.where(_along(is_padding[:, None], x), 1e3 * (1 + x), x), output)
    filled = dataclasses.replace(
        batch,
        labels=_scribble(batch.labels, is_padding),
        token_labels=None if batch.token_labels is None else _scribble(batch.token_labels, is_padding),
    )
    np.testing.assert_allclose(loss_and_gradient(task, scribbled, filled)[0], value, rtol=1e-6)


def _scribble(labels: np.ndarray, is_padding: np.ndarray) -> np.ndarray:
    if labels.ndim == 1:  # one of a video
        return np.where(is_padding.all(axis=1), 2, labels)
    return np.where(_along(is_padding, labels), 1, labels)


def _along(mask: np.ndarray, x) -> np.ndarray:
    return mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))


@EACH_TASK
def test_a_batch_of_padding_alone_has_loss_zero(task):
    output, batch = example(task)
    nothing = np.zeros((3, 3), bool)
    for padding in ({"example_mask": nothing[0]}, {"example_mask": nothing[0], "text_valid": nothing}):
        value, gradient = loss_and_gradient(task, output, dataclasses.replace(batch, **padding))
        assert value == 0
        assert not any(np.any(part) for part in jax.tree.leaves(gradient))


@EACH_TASK
def test_every_consensus_trains_in_its_own_way(task):
    results = with_each_consensus(task, *example(task, num_clips=3))
    assert len({float(value) for value, _ in results.values()}) == 3
    for _, gradient in results.values():
        assert all(np.any(part) for part in jax.tree.leaves((gradient.scores, gradient.token_scores)))


@EACH_TASK
def test_large_scores_have_a_finite_loss_and_gradient(task):
    results = with_each_consensus(task, *example(task, num_clips=3, scale=1e3))
    assert all(np.isfinite(part).all() for part in jax.tree.leaves(results))


@EACH_TASK
def test_clips_that_agree_are_as_one(task):
    output, batch = example(task, num_clips=1)
    several = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=1), output)
    expected, of_one = loss_and_gradient(task, output, batch)
    for value, gradient in with_each_consensus(task, several, batch).values():
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        # However the clips share it, together they get the gradient of the one.
        np.testing.assert_allclose(gradient.scores.sum(1), of_one.scores[:, 0], rtol=1e-4, atol=1e-6)


def test_more_clips_than_in_training():
    """Counting, whose head may treat the clips of a training batch one by one."""
    task = CountQA(use_batch_statistics=True)
    model, batch = small_model(task), make_batch([[3, 1], [2, 5]])
    model_def, params, frozen = split_model(model)
    arrays = {**params, **frozen}
    train = jax.jit(lambda arrays: forward(model_def.merge(arrays), task, batch, jax.random.key(0)).scores)
    assert train(arrays).shape == (2, 2, 2, 1)

    scorer = Scorer(model_def, arrays)
    clips = np.concatenate([batch.frames[:, :1], np.repeat(batch.frames[:, :1], 5, axis=1)], axis=1)
    counts = score_queries(
        scorer,
        lambda output: {"counts": task.counts(output.scores)},
        [(clips, np.ones(2, bool))],
        Queries(text_ids=batch.text_ids, text_mask=batch.text_mask, video=np.arange(2)),
        num_clips=[1, 5],
    )
    np.testing.assert_allclose(counts[5]["counts"], counts[1]["counts"], rtol=1e-5)
    assert np.ptp(counts[1]["counts"]) > 1e-3
