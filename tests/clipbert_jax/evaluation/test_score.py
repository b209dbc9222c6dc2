"""Evaluation: each video encoded once, and the same result however videos and texts are grouped."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.evaluation import score as evaluation
from clipbert_jax.evaluation.score import Queries, score_batches, score_queries
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.model_def import split_model
from clipbert_jax.prediction import match_entries, predict_clips
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.sharding import make_mesh

NUM_VIDEOS, NUM_TEXTS, LENGTH = 5, 7, 20
TEXT_LENGTHS = np.array([5, 18, 2, 16, 20, 11, 17])  # two buckets, 16 and 20
TASK = Retrieval(consensus="log_sum_exp")


@pytest.fixture(scope="module")
def model():
    tiny = ClipBertConfig.tiny(vocab_size=32)
    fusion = dataclasses.replace(tiny.fusion, hidden_size=16, num_heads=2, intermediate_size=32)
    return ClipBert(dataclasses.replace(tiny, fusion=fusion), TASK.head, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def make_scorer(model):
    model_def, trainable, frozen = split_model(model)
    return lambda **options: Scorer(model_def, {**trainable, **frozen}, **options)


@pytest.fixture(scope="module")
def scorer(make_scorer):
    """All 8 devices."""
    return make_scorer()


@pytest.fixture(scope="module")
def one_device(make_scorer):
    return make_scorer(mesh=make_mesh(jax.devices()[:1]))


@pytest.fixture(scope="module")
def videos():
    return np.random.default_rng(0).integers(0, 256, (NUM_VIDEOS, 3, 1, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def texts():
    mask = np.arange(LENGTH) < TEXT_LENGTHS[:, None]
    return np.where(mask, np.random.default_rng(1).integers(1, 32, mask.shape), 0).astype(np.int32), mask


@pytest.fixture(scope="module")
def queries(texts):
    """Two texts each, of 6 queries that are not in the order of their videos; video 1 is asked nothing."""
    ids, mask = texts
    asked = np.array([[0, 1], [2, 3], [4, 5], [6, 0], [2, 5], [3, 0]])
    return Queries(text_ids=ids[asked], text_mask=mask[asked], video=np.array([3, 0, 4, 0, 2, 0])), asked


def grouped(videos, size):
    """Yield batches as the loader does: the last one filled with rows that are no videos."""
    for first in range(0, len(videos), size):
        group = videos[first : first + size]
        fill = np.full((size - len(group), *videos.shape[1:]), 255, np.uint8)
        yield np.concatenate([group, fill]), np.arange(size) < len(group)


def match_logits(output):
    """Reduce as retrieval does."""
    return {"match": TASK.match_logit(output.scores)}


def score_all_pairs(*arguments, **options):
    """Return the scores of all batches of videos."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *score_batches(*arguments, **options))


def match_matrix(scorer, videos, ids, mask, **options):
    """Return the match logit of every video with every text, all clips pooled."""
    videos = list(videos)
    num_clips = videos[0][0].shape[1]
    found = score_all_pairs(scorer, match_logits, videos, ids, mask, num_clips=[num_clips], **options)
    return found[num_clips]["match"]


def counted(monkeypatch, thing, name):
    """Return a list that grows with the shape of the first array at each call of a method."""
    calls, method = [], getattr(thing, name)

    def counting(*args, **kwargs):
        calls.append(args[-1].shape)
        return method(*args, **kwargs)

    monkeypatch.setattr(thing, name, counting)
    return calls


@pytest.mark.parametrize(
    ("batch_size", "texts_per_call"), [pytest.param(1, 1, marks=pytest.mark.slow), (2, 3), (3, 64)]
)
def test_grouping_changes_nothing(model, scorer, videos, texts, batch_size, texts_per_call):
    matrix = match_matrix(scorer, grouped(videos, batch_size), *texts, texts_per_call=texts_per_call)
    ids, mask = (np.broadcast_to(x, (NUM_VIDEOS, *x.shape)) for x in texts)
    expected = TASK.match_logit(nnx.jit(ClipBert.__call__)(model, videos, ids, mask).scores)
    assert matrix.shape == (NUM_VIDEOS, NUM_TEXTS)
    np.testing.assert_allclose(matrix, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(matrix) > 0.01


def test_buckets_change_nothing(make_scorer, one_device, videos, texts):
    in_buckets = match_matrix(one_device, grouped(videos, 5), *texts)
    without = make_scorer(mesh=one_device.mesh, bucket_lengths=())
    np.testing.assert_allclose(match_matrix(without, grouped(videos, 5), *texts), in_buckets, atol=1e-5)
    ids, mask = texts
    for n in (1, 2):  # alone, at its exact length
        text = ids[[n], : TEXT_LENGTHS[n]], mask[[n], : TEXT_LENGTHS[n]]
        alone = match_matrix(without, grouped(videos, 5), *text)
        np.testing.assert_allclose(alone[:, 0], in_buckets[:, n], atol=1e-5)


def test_devices_share_the_videos_and_change_nothing(scorer, one_device, videos, texts, queries):
    assert (scorer.num_devices, one_device.num_devices) == (8, 1)
    on_one = match_matrix(one_device, grouped(videos, 5), *texts)
    on_all = match_matrix(scorer, grouped(videos, 5), *texts)
    np.testing.assert_allclose(on_all, on_one, rtol=1e-6, atol=1e-6)
    answers = [
        score_queries(each, match_logits, grouped(videos, 2), queries[0], num_clips=[3])[3]["match"]
        for each in (one_device, scorer)
    ]
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-6, atol=1e-6)
    tokens = scorer.encode(videos)
    assert tokens.shape[0] == 8  # one row for each device
    assert len(tokens.sharding.device_set) == 8
    assert {shard.data.shape[0] for shard in tokens.addressable_shards} == {1}


def test_one_program_for_each_bucket(make_scorer, videos, texts, queries):
    traces = []

    def reduce(output):
        traces.append(output.pooled.shape)
        return match_logits(output)

    scorer = make_scorer()
    for _ in range(2):
        score_all_pairs(scorer, reduce, grouped(videos, 2), *texts, num_clips=[3], texts_per_call=2)
        assert [shape[2] for shape in traces] == [2, 2]  # texts of a call; 16 and 20 tokens
    traces.clear()
    for _ in range(2):
        score_queries(scorer, reduce, grouped(videos, 2), queries[0], num_clips=[3], texts_per_call=2)
        assert len(traces) == 2


def test_each_video_is_encoded_once_and_texts_are_sent_once(make_scorer, videos, texts, monkeypatch):
    scorer = make_scorer()
    traces = counted(monkeypatch, ClipBert, "encode_video")
    encoded = counted(monkeypatch, scorer, "encode")
    split = counted(monkeypatch, scorer, "put_split")
    everywhere = counted(monkeypatch, scorer, "put_everywhere")
    match_matrix(scorer, grouped(videos, 2), *texts, texts_per_call=2)
    assert [shape[0] for shape in encoded] == [2, 2, 2]
    assert len(traces) == 1
    assert not split  # nothing but frames, which each process has its own of
    # Four short and three long texts: ids and mask of two tiles each.
    assert everywhere == [(2, 16)] * 4 + [(2, 20)] * 4


def test_many_clips_make_calls_of_fewer_texts(one_device, videos, texts, monkeypatch):
    visual_tokens = one_device.encode(videos[:2]).shape[2]
    # Two texts of 16 tokens against 2 videos of 3 clips; of 20 tokens only one.
    monkeypatch.setattr(evaluation, "TOKENS_PER_CALL", 2 * 6 * (visual_tokens + 16))
    sent = counted(monkeypatch, one_device, "put_everywhere")
    few = match_matrix(one_device, grouped(videos, 2), *texts)
    assert sent == [(2, 16)] * 4 + [(1, 20)] * 6
    monkeypatch.setattr(evaluation, "TOKENS_PER_CALL", 1)
    np.testing.assert_allclose(match_matrix(one_device, grouped(videos, 2), *texts), few, atol=1e-5)


def test_calls_are_dispatched_ahead_but_not_without_bound():
    dispatched = []

    def calls():
        for number in range(20):
            dispatched.append(number)
            yield number, {1: {"x": jnp.full((2,), number)}}

    num_ahead = []
    for number, result in evaluation._fetched(calls()):
        assert result[1]["x"].tolist() == [number, number]
        num_ahead.append(len(dispatched) - number - 1)
    assert len(num_ahead) == 20
    assert num_ahead[0] == max(num_ahead) == 4


def test_batches_come_one_by_one(scorer, videos, texts):
    """So that one who needs a part of the scores never has all of them."""
    taken = []

    def batches():
        for batch in grouped(videos, 1):
            taken.append(batch)
            yield batch

    for number, rows in enumerate(score_batches(scorer, match_logits, batches(), *texts, num_clips=[3])):
        assert rows[3]["match"].shape == (1, NUM_TEXTS)
        assert len(taken) <= number + 1 + 3  # five calls, each of which has at least a third of a batch
    assert len(taken) == NUM_VIDEOS


def test_parameters_may_be_replaced(make_scorer, scorer, videos, texts):
    replaced = make_scorer()
    before = match_matrix(replaced, grouped(videos, 5), *texts)
    replaced.parameters = {name: 2 * array for name, array in replaced.parameters.items()}
    assert np.abs(match_matrix(replaced, grouped(videos, 5), *texts) - before).max() > 1e-3
    replaced.parameters = scorer.parameters
    np.testing.assert_array_equal(match_matrix(replaced, grouped(videos, 5), *texts), before)


def test_progress_counts_videos_without_the_filling(scorer, videos, texts, queries):
    batches = score_batches(scorer, match_logits, grouped(videos, 2), *texts, num_clips=[3])
    assert [len(rows[3]["match"]) for rows in batches] == [2, 2, 1]
    seen, batches = [], grouped(videos, 1)
    score_queries(scorer, match_logits, batches, queries[0], num_clips=[3], on_progress=seen.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == NUM_VIDEOS


def test_prediction_says_which_clip(one_device, videos, texts):
    words = [f"text {n}" for n in range(NUM_TEXTS)]
    matches = match_entries(predict_clips(one_device, TASK, videos[0], *texts), words)
    matrix = match_matrix(one_device, grouped(videos[:1], 1), *texts)
    by_clip = [match_matrix(one_device, grouped(videos[:1, [k]], 1), *texts)[0] for k in range(3)]
    for n, match in enumerate(matches):
        assert match["text"] == words[n]
        assert match["probability"] == pytest.approx(float(jax.nn.sigmoid(matrix[0, n])), rel=1e-4)
        expected = [float(jax.nn.sigmoid(by_clip[k][n])) for k in range(3)]
        assert match["clip_probabilities"] == pytest.approx(expected, rel=1e-4)
        assert match["best_clip"] == int(np.argmax(match["clip_probabilities"]))
    for k in range(3):
        others = match_matrix(one_device, grouped(np.delete(videos[:1], k, axis=1), 1), *texts)[0]
        for n, match in enumerate(matches):
            left = match["probability"] + match["change_without"][k]
            assert left == pytest.approx(float(jax.nn.sigmoid(others[n])), rel=1e-4)
    (alone, *_) = match_entries(predict_clips(one_device, TASK, videos[0][:1], *texts), words)
    assert alone["change_without"] == ()


def test_several_numbers_of_clips_share_one_pass(one_device, videos, texts):
    together = score_all_pairs(one_device, match_logits, grouped(videos, 2), *texts, num_clips=[1, 2])
    for count, clips in ((1, videos[:, :1]), (2, videos[:, 1:])):
        alone = match_matrix(one_device, grouped(clips, 5), *texts)
        np.testing.assert_allclose(together[count]["match"], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "texts_per_call"), [(2, 1), (1, 4), (2, 64), (8, 64)])
def test_queries_are_asked_of_their_own_video(
    scorer, one_device, videos, texts, queries, batch_size, texts_per_call
):
    of_texts, asked = queries
    expected = match_matrix(one_device, grouped(videos, 5), *texts)[of_texts.video[:, None], asked]
    for each in (scorer, one_device):
        batches = grouped(videos, batch_size)
        found = score_queries(
            each, match_logits, batches, of_texts, num_clips=[3], texts_per_call=texts_per_call
        )
        np.testing.assert_allclose(found[3]["match"], expected, rtol=1e-4, atol=1e-5)
