"""Evaluation: each video encoded once, and the same result however videos and texts are grouped."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.evaluation import Queries, Scorer, score_all_pairs, score_queries
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.skeleton import split_model
from clipbert_jax.prediction import match_texts
from clipbert_jax.tasks.retrieval import Retrieval

NUM_VIDEOS, NUM_TEXTS, LENGTH = 5, 7, 6
TASK = Retrieval(consensus="log_sum_exp")


@pytest.fixture(scope="module")
def model():
    tiny = ClipBertConfig.tiny(vocab_size=32)
    fusion = dataclasses.replace(tiny.fusion, hidden_size=16, num_heads=2, intermediate_size=32)
    return ClipBert(dataclasses.replace(tiny, fusion=fusion), TASK.head, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def scorer(model):
    skeleton, trainable, frozen = split_model(model)
    return Scorer(skeleton, {**trainable, **frozen})


@pytest.fixture(scope="module")
def videos():
    return np.random.default_rng(0).integers(0, 256, (NUM_VIDEOS, 3, 1, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(1)
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (NUM_TEXTS, 1))
    return np.where(mask, rng.integers(1, 32, mask.shape), 0).astype(np.int32), mask


def grouped(videos, size):
    """Yield batches as the loader does: the last one filled with rows that are no videos."""
    for first in range(0, len(videos), size):
        group = videos[first : first + size]
        fill = np.full((size - len(group), *videos.shape[1:]), 255, np.uint8)
        yield np.concatenate([group, fill]), np.arange(size) < len(group)


def match_logits(output):
    """Reduce as retrieval does."""
    return {"match": TASK.match_logit(output.scores)}


def match_matrix(scorer, task, videos, ids, mask, **options):
    """Return the match logit of every video with every text, all clips pooled."""
    videos = list(videos)
    num_clips = videos[0][0].shape[1]
    return score_all_pairs(scorer, match_logits, videos, ids, mask, num_clips=[num_clips], **options)[
        num_clips
    ]["match"]


@pytest.mark.parametrize(("batch_size", "texts_per_call"), [(1, 1), (2, 3), (3, 64)])
def test_grouping_changes_nothing(model, scorer, videos, texts, batch_size, texts_per_call):
    matrix = match_matrix(scorer, TASK, grouped(videos, batch_size), *texts, texts_per_call=texts_per_call)
    ids, mask = (np.broadcast_to(x, (NUM_VIDEOS, *x.shape)) for x in texts)
    expected = TASK.match_logit(model(videos, ids, mask).scores)
    assert matrix.shape == (NUM_VIDEOS, NUM_TEXTS)
    np.testing.assert_allclose(matrix, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(matrix) > 0.01


def test_each_video_is_encoded_once(scorer, videos, texts, monkeypatch):
    encoded, encode = [], scorer.encode
    monkeypatch.setattr(scorer, "encode", lambda frames: encoded.append(len(frames)) or encode(frames))
    match_matrix(scorer, TASK, grouped(videos, 2), *texts, texts_per_call=2)
    assert encoded == [2, 2, 2]


def test_progress_counts_videos_without_the_filling(scorer, videos, texts):
    seen = []
    match_matrix(scorer, TASK, grouped(videos, 2), *texts, on_progress=seen.append)
    assert seen == [2, 4, 5]


def test_prediction_says_which_clip(scorer, videos, texts):
    words = [f"text {n}" for n in range(NUM_TEXTS)]
    matches = match_texts(scorer, TASK, videos[0], words, *texts)
    matrix = match_matrix(scorer, TASK, grouped(videos[:1], 1), *texts)
    by_clip = [match_matrix(scorer, TASK, grouped(videos[:1, [k]], 1), *texts)[0] for k in range(3)]
    for n, match in enumerate(matches):
        assert match.text == words[n]
        assert match.probability == pytest.approx(float(jax.nn.sigmoid(matrix[0, n])), rel=1e-4)
        expected = [float(jax.nn.sigmoid(by_clip[k][n])) for k in range(3)]
        assert match.clip_probabilities == pytest.approx(expected, rel=1e-4)
        assert match.best_clip == int(np.argmax(match.clip_probabilities))


def test_several_numbers_of_clips_share_one_pass(scorer, videos, texts):
    together = score_all_pairs(scorer, match_logits, grouped(videos, 2), *texts, num_clips=[1, 2])
    for count, clips in ((1, videos[:, :1]), (2, videos[:, 1:])):
        alone = match_matrix(scorer, TASK, grouped(clips, 5), *texts)
        np.testing.assert_allclose(together[count]["match"], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("texts_per_call", [1, 4, 64])
def test_queries_are_asked_of_their_own_video(scorer, videos, texts, texts_per_call):
    ids, mask = texts
    asked = np.array([[0, 1], [2, 3], [4, 5], [6, 0], [1, 2], [3, 4]])  # texts of each query
    video = np.array([3, 0, 4, 0, 2, 0])  # video 1 is asked nothing
    queries = Queries(text_ids=ids[asked], text_mask=mask[asked], video=video)
    found = score_queries(
        scorer, match_logits, grouped(videos, 2), queries, num_clips=[3], texts_per_call=texts_per_call
    )
    expected = match_matrix(scorer, TASK, grouped(videos, 5), ids, mask)[video[:, None], asked]
    np.testing.assert_allclose(found[3]["match"], expected, rtol=1e-4, atol=1e-5)
