"""What a model is seen to look at equals the original's attention, and hiding parts does what it says."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import PretrainingHeadConfig
from clipbert_jax.probing import attention_maps
from clipbert_jax.probing.ablation import (
    ProbedExample,
    changes_without_cells,
    changes_without_frames,
    changes_without_heads,
    changes_without_words,
)
from clipbert_jax.probing.evidence import changes_without_clips
from clipbert_jax.probing.model_probe import ModelProbe
from clipbert_jax.probing.probe_score import ProbeScore
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.retrieval import Retrieval
from tests.goldens import golden

CONFIG = dataclasses.replace(
    ClipBertConfig.tiny(), fusion=dataclasses.replace(ClipBertConfig.tiny().fusion, num_layers=2)
)
NUM_CLIPS, NUM_FRAMES, LENGTH = 3, 2, 6


@pytest.fixture(scope="module")
def probe():
    task = Retrieval(consensus="log_sum_exp")
    return ModelProbe(ClipBert(CONFIG, task.head, rngs=nnx.Rngs(0)), ProbeScore(task))


@pytest.fixture(scope="module")
def example(probe):
    random = np.random.default_rng(1)
    frames = random.integers(0, 256, (NUM_CLIPS, NUM_FRAMES, 48, 32, 3), dtype=np.uint8)
    ids = random.integers(5, 200, LENGTH)
    return ProbedExample(probe, frames, ids, np.array([True] * (LENGTH - 1) + [False]))


@functools.cache
def model_of(probe):
    return ClipBert(CONFIG, probe.probe_score.task.head, rngs=nnx.Rngs(0))


@nnx.jit
def call(model, frames, text_ids, text_mask):
    return model(frames, text_ids, text_mask).scores


def numbers_of(example, **arrays):
    """What the model says, without any of the code under test."""
    given = {
        "frames": example.frames,
        "text_ids": example.text_ids,
        "text_mask": example.text_mask,
        **arrays,
    }
    batch = (x[None] if name == "frames" else x[None, None] for name, x in given.items())
    return np.asarray(call(model_of(example.probe), *batch))[0, :, 0]


@pytest.mark.parametrize(
    "name", [*(pytest.param(x, marks=pytest.mark.slow) for x in ("a", "one_frame")), "hole"]
)
def test_attention_and_its_maps_equal_the_original(name):
    case = golden.load_case("02_body")
    inputs, reference = golden.part(case, f"in/{name}/"), golden.part(case, f"f64/{name}/")
    with jax.enable_x64(True):
        model = golden.model(PretrainingHeadConfig(), "pretrain")
        tokens = np.asarray(model.visual_embedding(jnp.asarray(inputs["grid"], jnp.float64)[:, None]))
        probe = ModelProbe(model, ProbeScore(Pretraining()))
        grid = inputs["grid"].shape[2:4]
        for row, mask in enumerate(inputs["text_input_mask"] > 0):
            record = probe.record_from_tokens(tokens[row], grid, inputs["text_input_ids"][row], mask)
            length, whole = int(np.flatnonzero(mask)[-1]) + 1, len(mask)
            maps = attention_maps.text_to_grid(record.attention, grid)
            backward = attention_maps.grid_to_text(record.attention, grid)
            for layer, head in np.ndindex(record.attention.shape[0], record.attention.shape[2]):
                expected = reference[f"attn_{layer}"][row, head]
                places = [*range(length), *range(whole, expected.shape[0])]
                golden.assert_close(
                    record.attention[layer, 0, head], expected[np.ix_(places, places)], 1e-12, "attention"
                )
                for token, (y, x) in ((t, c) for t in range(length) for c in np.ndindex(*grid)):
                    cell = whole + y * grid[1] + x
                    assert maps[layer, 0, head, token, y, x] == pytest.approx(
                        expected[token, cell], abs=1e-12
                    )
                    assert backward[layer, 0, head, token, y, x] == pytest.approx(
                        expected[cell, token], abs=1e-12
                    )


def test_looking_changes_nothing(example):
    record = example.probe.record(example.frames, example.text_ids, example.text_mask)
    np.testing.assert_allclose(record.scores, numbers_of(example), rtol=1e-5)
    np.testing.assert_allclose(record.scores, example.scores, rtol=1e-5)
    assert record.number == pytest.approx(example.number, rel=1e-5)
    assert record.grid == (3, 2)
    assert record.attention.shape == (2, NUM_CLIPS, 4, 11, 11)  # padding of the text is cut off
    np.testing.assert_allclose(record.attention.sum(-1), 1, rtol=1e-5)
    assert record.hidden_states.shape == (3, NUM_CLIPS, 11, 64)


def test_attention_times_gradient_is_what_a_small_change_of_a_head_brings(example):
    """Compared with finite differences, through the pooled number."""
    record = example.probe.record(example.frames, example.text_ids, example.text_mask)
    step = 1e-2
    for layer, head in ((0, 1), (1, 3)):
        factors = np.ones((2, 2, 4), np.float32)
        factors[0, layer, head] += step
        factors[1, layer, head] -= step
        up, down = example.numbers_with_hidden(head_factors=factors)
        summed = record.attention_times_gradient[layer, :, head].sum()
        assert summed == pytest.approx((up - down) / (2 * step), rel=0.02, abs=1e-4)


def test_a_hidden_word_is_as_if_it_were_padding(example):
    changes = changes_without_words(example, [(1,), (2, 3)])
    for change, places in zip(changes, ([1], [2, 3]), strict=True):
        mask = example.text_mask.copy()
        mask[places] = False
        scores = numbers_of(example, text_mask=mask)
        expected = example.probe.probe_score.of_scores(scores[None])[0] - example.number
        assert change == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert abs(changes).min() > 1e-4
    assert changes_without_words(example, []).shape == (0,)


def test_a_hidden_cell_is_looked_at_by_none_and_counts_in_its_clip_alone(example):
    changes = changes_without_cells(example, (3, 2))
    assert changes.shape == (NUM_CLIPS, 3, 2)
    model, tokens = model_of(example.probe), jnp.asarray(example.visual_tokens)
    for clip, row, column in ((0, 0, 0), (2, 1, 1)):
        cell = row * 2 + column
        seen = np.ones((1, NUM_CLIPS, 6), bool)
        seen[0, clip, cell] = False
        output = model.score_texts(
            tokens[None],
            example.text_ids[None, None],
            example.text_mask[None, None],
            visual_mask=seen,
            return_attention=True,
        )
        for layer in output.attention:
            assert np.all(np.asarray(layer)[0, clip, :, :, :, LENGTH + cell] == 0)
            assert np.all(np.asarray(layer)[0, (clip + 1) % NUM_CLIPS, :, :, :, LENGTH + cell] > 0)
        number = example.probe.probe_score.of_scores(np.asarray(output.scores)[:, :, 0])[0]
        assert changes[clip, row, column] == pytest.approx(number - example.number, rel=1e-3, abs=1e-5)


def test_regions_hide_several_cells_at_once(example):
    changes = changes_without_cells(example, (3, 2), region=2)
    assert np.all(changes[:, :2] == changes[:, :1, :1])
    assert np.all(changes[:, 2] == changes[:, 2, :1])
    assert np.all(changes[:, 2, 0] != changes[:, 0, 0])


def test_a_frame_that_is_left_out_is_not_averaged(example):
    changes = changes_without_frames(example)
    assert changes.shape == (NUM_CLIPS, NUM_FRAMES)
    frames = example.frames.copy()
    frames[1, 0] = frames[1, 1]  # the mean of two times the same frame is the mean without the other
    expected = (
        example.probe.probe_score.of_scores(numbers_of(example, frames=frames)[None])[0] - example.number
    )
    assert changes[1, 0] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    one = ProbedExample(example.probe, example.frames[:, :1], example.text_ids, example.text_mask)
    assert changes_without_frames(one) is None


def test_a_head_that_is_switched_off_has_weights_of_zero(example):
    """Its part of the output product set to zero does the same."""
    changes = changes_without_heads(example, 2, 4)
    model = nnx.clone(model_of(example.probe))
    kernel = model.fusion.layers[1].attention_output.kernel
    kernel[...] = kernel[...].at[16 * 2 : 16 * 3].set(0)  # 4 heads of width 16
    scores = call(model, example.frames[None], example.text_ids[None, None], example.text_mask[None, None])
    number = example.probe.probe_score.of_scores(np.asarray(scores)[:, :, 0])[0]
    assert changes[1, 2] == pytest.approx(number - example.number, rel=1e-3, abs=1e-5)


def test_leaving_a_clip_out_is_the_model_without_it(example):
    changes = changes_without_clips(example.scores, example.probe.probe_score)
    for clip in range(NUM_CLIPS):
        scores = numbers_of(example, frames=np.delete(example.frames, clip, axis=0))
        expected = example.probe.probe_score.of_scores(scores[None])[0] - example.number
        assert changes[clip] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert changes_without_clips(example.scores[:1], example.probe.probe_score) is None


def test_many_versions_are_scored_in_tiles(example, monkeypatch):
    factors = np.random.default_rng(0).random((7, 2, 4)).astype(np.float32)
    expected = example.numbers_with_hidden(head_factors=factors)
    monkeypatch.setattr("clipbert_jax.probing.model_probe._TOKENS_PER_CALL", 3 * NUM_CLIPS * 12)
    done = []
    monkeypatch.setattr(example.probe, "on_progress", done.append)
    np.testing.assert_allclose(example.numbers_with_hidden(head_factors=factors), expected, rtol=1e-5)
    assert done == [3 * NUM_CLIPS] * 3


@pytest.mark.parametrize("consensus", ["mean", "max", "log_sum_exp"])
def test_targets_are_what_the_tasks_predict(consensus):
    scores = np.random.default_rng(2).normal(size=(2, 3, 5)).astype(np.float32)
    qa = OpenEndedQA(num_answers=5, consensus=consensus)
    logits = np.asarray(qa.answer_logits(jnp.asarray(scores)[:, :, None]))[:, 0, :4]
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    probe_score = ProbeScore(qa, answer=2, num_answers=4)
    for number, expected in zip(probe_score.of_scores(scores), probabilities[:, 2], strict=True):
        assert probe_score.probability(float(number)) == pytest.approx(expected, rel=1e-5)
    soft = ProbeScore(ImageQA(num_answers=5, consensus=consensus), answer=1, num_answers=5)
    logits = np.asarray(soft.task.answer_logits(jnp.asarray(scores)[:, :, None]))[:, 0]
    np.testing.assert_allclose(soft.of_scores(scores), logits[:, 1])


def test_numbers_without_probability_have_none():
    scores = np.array([[[2.0], [4.0]]], np.float32)
    counted = ProbeScore(CountQA(consensus="mean"))
    assert counted.of_scores(scores) == [3.0]
    assert counted.probability(3.0) is None
    option = ProbeScore(MultipleChoiceQA(consensus="mean"))
    assert option.of_scores(scores) == [3.0]
    assert option.probability(3.0) is None
