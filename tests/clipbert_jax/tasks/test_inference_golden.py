"""Evaluation over several clips against the original's: scores, answers, metrics (golden case 04c).

Everything comes through `clipbert_jax.evaluation.score`, in groups that divide neither the videos
nor the texts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.evaluation.metrics import answer_metrics, original_ranks_both_ways, rank_metrics
from clipbert_jax.evaluation.score import Queries, Reduced, Scorer, score_batches, score_queries
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.consensus import Consensus
from clipbert_jax.models.model_def import split_model
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.sharding import make_mesh
from tests.goldens import golden

CASE = golden.load_case("04c_inference")
MANIFEST = golden.manifest()["cases"]["04c_inference.npz"]
META, SETTINGS = MANIFEST["meta"], MANIFEST["meta"]["config"]
NUM_VIDEOS, NUM_CLIPS = SETTINGS["videos"], SETTINGS["n_clips"]

# The pixel means of the original were rounded to float32, an effect of 1e-8.
TOLERANCE = 1e-7
POOLS: dict[Consensus, str] = {"mean": "mean", "max": "max", "log_sum_exp": "lse"}
EACH_CONSENSUS = pytest.mark.parametrize("consensus", get_args(Consensus))
EACH_LOSS = pytest.mark.parametrize("loss", ["ce", "rank"])
METRICS = {"r1": "r1", "r5": "r5", "r10": "r10", "median_rank": "medianR", "mean_rank": "meanR"}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@EACH_LOSS
def test_scores_of_every_clip_equal_the_original(loss):
    scores = np.moveaxis(_retrieved(loss)["scores"], 2, 1)
    golden.assert_close(scores, CASE[f"f64/ret_{loss}/logits_per_clip"], TOLERANCE)


@EACH_CONSENSUS
@EACH_LOSS
def test_retrieval_scores_equal_the_original(loss, consensus):
    logits = _retrieved(loss)[consensus]
    if (loss, consensus) == ("rank", "log_sum_exp"):
        # The original does not divide by the number of clips. With one logit that shifts every score before
        # its sigmoid; with two of them the shift cancels.
        logits = logits + math.log(NUM_CLIPS)
    expected = CASE[f"f64/ret_{loss}/{POOLS[consensus]}/scores"]
    np.testing.assert_array_equal(np.round(_sigmoid(logits), 4), np.round(expected, 4))


@EACH_CONSENSUS
@EACH_LOSS
def test_retrieval_metrics_equal_the_original(loss, consensus):
    """Of our own scores, so that the shift in the test above is seen to change no metric."""
    video_of_text = np.arange(SETTINGS["texts"]) % NUM_VIDEOS
    ranks = original_ranks_both_ways(_sigmoid(_retrieved(loss)[consensus]), video_of_text)
    expected = META["metrics"][f"ret_{loss}/{POOLS[consensus]}"]
    for ours, theirs in (("text_to_video", "text2video"), ("video_to_text", "video2text")):
        wanted = {name: expected[theirs][key] for name, key in METRICS.items()}
        assert rank_metrics(ranks[ours]) == pytest.approx(wanted)


def test_scores_of_every_answer_equal_the_original():
    golden.assert_close(_answered()["scores"][:, 0], CASE["f64/qa/logits_per_clip"], TOLERANCE)


@EACH_CONSENSUS
def test_answers_equal_the_original(consensus):
    answers, right = _answered()[consensus][:, 0], CASE["in/qa/gt_index"]
    np.testing.assert_array_equal(answers, CASE[f"f64/qa/{POOLS[consensus]}/answer"])

    types = [["what", "who", "how"][question % 3] for question in range(NUM_VIDEOS)]
    metrics, expected = answer_metrics(answers, right, types), META["qa_scores"][POOLS[consensus]]
    # Both are percentages. The original answers none of these questions right with such weights.
    assert metrics["accuracy"] == expected["overall_acc"]
    assert [metrics[f"accuracy/{name}"] for name in types] == [expected[f"{x}_acc"] for x in types]


@functools.cache
def _retrieved(loss: str) -> Reduced:
    """Score all pairs once: of each clip, and the match logits with every consensus."""
    tasks = {consensus: Retrieval(loss=loss, consensus=consensus) for consensus in POOLS}

    def reduce(output: ClipBertOutput) -> dict[str, jax.Array]:
        pooled = {consensus: task.match_logit(output.scores) for consensus, task in tasks.items()}
        return {"scores": jnp.moveaxis(output.scores, 1, 2), **pooled}

    scorer = _scorer(tasks["mean"].head, MANIFEST["heads"][f"ret_{loss}"])
    ids, mask = CASE["in/text_input_ids"], CASE["in/text_input_mask"] > 0
    found = score_batches(scorer, reduce, _videos(), ids, mask, num_clips=[NUM_CLIPS], texts_per_call=2)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)[NUM_CLIPS]


@functools.cache
def _answered() -> Reduced:
    """Ask each video its question once: scores of each clip, and the answer with every consensus."""
    tasks = {c: OpenEndedQA(num_answers=SETTINGS["num_labels"], consensus=c) for c in POOLS}

    def reduce(output: ClipBertOutput) -> dict[str, jax.Array]:
        answers = {c: jnp.argmax(task.answer_logits(output.scores), axis=-1) for c, task in tasks.items()}
        return {"scores": jnp.moveaxis(output.scores, 1, 2), **answers}

    queries = Queries(
        text_ids=CASE["in/text_input_ids"][:NUM_VIDEOS, None],
        text_mask=CASE["in/text_input_mask"][:NUM_VIDEOS, None] > 0,
        video=np.arange(NUM_VIDEOS),
    )
    scorer = _scorer(tasks["mean"].head, MANIFEST["heads"]["qa"])
    return score_queries(scorer, reduce, _videos(), queries, num_clips=[NUM_CLIPS])[NUM_CLIPS]


def _scorer(head, head_name: str) -> Scorer:
    model_def, params, frozen = split_model(golden.model(head, head_name))
    # One device, as eight would each encode rows of zeros.
    return Scorer(model_def, {**params, **frozen}, mesh=make_mesh(jax.devices()[:1]))


def _videos() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield two videos, then the third and a row that is none."""
    frames = golden.frames(CASE["in/frames"])
    frames = frames.reshape(NUM_VIDEOS, NUM_CLIPS, SETTINGS["n_frames"], *frames.shape[2:])
    yield frames[:2], np.array([True, True])
    yield np.stack([frames[2], np.full_like(frames[2], 255)]), np.array([True, False])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
