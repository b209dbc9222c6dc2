from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from clipbert_jax.probing.linear_probes import control_labels, fit, probe_layers, split_by_video

NUM_VIDEOS, PER_VIDEO = 100, 4


def videos() -> np.ndarray:
    return np.repeat(np.arange(NUM_VIDEOS), PER_VIDEO)


def labels_and_rng(num_classes: int) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(0)
    return rng.integers(num_classes, size=NUM_VIDEOS * PER_VIDEO), rng


def test_what_a_line_separates_is_told_and_what_is_not_there_is_not():
    labels, rng = labels_and_rng(4)
    noise = rng.normal(size=(len(labels), 16))
    separable = noise + 20 * np.eye(4, 16)[labels]
    there, absent = probe_layers(np.stack([separable, noise]), labels, videos(), rng=rng)
    assert there.accuracy == 1.0
    assert abs(absent.accuracy - 0.25) < 0.1
    assert absent.low < absent.accuracy < absent.high
    assert abs(there.chance - 0.25) < 0.1
    assert there.chance == absent.chance
    assert there.selectivity > 0.6
    assert abs(absent.selectivity) < 0.1


def test_a_class_between_two_others_is_told():
    """Least squares would never choose the middle one."""
    labels, rng = labels_and_rng(3)
    states = labels[:, None] + rng.normal(scale=0.05, size=(len(labels), 2))
    (found,) = probe_layers(states[None], labels, videos(), rng=rng, l2=1e-4)
    assert found.accuracy > 0.95


def test_chance_is_the_most_frequent_label_of_training():
    labels = (np.arange(NUM_VIDEOS * PER_VIDEO) % 10 == 0).astype(int)
    rng = np.random.default_rng(0)
    (found,) = probe_layers(rng.normal(size=(1, len(labels), 2)), labels, videos(), rng=rng)
    assert found.chance == pytest.approx(0.9, abs=0.02)
    assert found.accuracy == pytest.approx(found.chance, abs=0.03)


def test_states_that_only_tell_types_apart_are_not_selective():
    """One dimension for each of 20 words tells any labels of them, with or without meaning."""
    rng = np.random.default_rng(0)
    words = rng.integers(20, size=NUM_VIDEOS * PER_VIDEO)
    labels = words % 2
    learnt_by_heart = np.eye(20)[words]
    meant = np.stack([labels, rng.normal(size=len(labels))], axis=1)
    meant = np.pad(meant, [(0, 0), (0, 18)])
    heart, knows = probe_layers(
        np.stack([learnt_by_heart, meant]), labels, videos(), rng=rng, types=words, num_controls=8
    )
    assert heart.accuracy == knows.accuracy == 1.0
    assert abs(heart.selectivity) < 0.02
    assert knows.selectivity > 0.3


def test_control_labels_are_shuffled_among_types():
    types = np.array(["ball", "box", "ball", "star", "ring", "box"])
    labels = np.array([0, 1, 0, 1, 0, 1])
    drawn = [control_labels(labels, types, np.random.default_rng(seed)) for seed in range(40)]
    for of_seed in drawn:
        by_type = dict(zip(types.tolist(), of_seed.tolist(), strict=True))
        assert [by_type[name] for name in types.tolist()] == of_seed.tolist()
        assert sorted(by_type.values()) == [0, 0, 1, 1]
    assert len({tuple(of_seed) for of_seed in drawn}) == 6


def test_videos_are_on_one_side_of_the_split():
    is_test = split_by_video(videos(), 0.3, np.random.default_rng(0))
    by_video = is_test.reshape(NUM_VIDEOS, PER_VIDEO)
    assert (by_video == by_video[:, :1]).all()
    assert by_video[:, 0].sum() == 30


def test_a_leak_between_examples_of_a_video_does_not_help():
    """States that say only which video it is tell nothing of videos that were not seen."""
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(2, size=NUM_VIDEOS), PER_VIDEO)
    states = np.repeat(rng.normal(size=(NUM_VIDEOS, 200)), PER_VIDEO, axis=0)
    (found,) = probe_layers(states[None], labels, videos(), rng=rng)
    assert found.accuracy < 0.7


def test_the_solution_is_that_of_a_general_optimiser():
    rng = np.random.default_rng(0)
    states, labels, l2 = rng.normal(size=(60, 5)), rng.integers(3, size=60), 0.05

    def loss(flat: np.ndarray) -> float:
        weights = flat.reshape(6, 3)
        logits = states @ weights[:-1] + weights[-1]
        right = logits[np.arange(60), labels]
        return float((np.log(np.exp(logits).sum(1)) - right).mean() + l2 / 2 * (flat**2).sum())

    expected = scipy.optimize.minimize(loss, np.zeros(18), tol=1e-10).x.reshape(6, 3)
    weights, bias = fit(states, labels, num_classes=3, l2=l2)
    np.testing.assert_allclose(np.concatenate([weights, bias[None]]), expected, atol=1e-3)


def test_too_little_to_learn_from_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two videos"):
        probe_layers(np.zeros((1, 3, 2)), np.array([0, 1, 0]), np.zeros(3, int), rng=rng)
    with pytest.raises(ValueError, match="at least two labels"):
        probe_layers(np.zeros((1, 4, 2)), np.zeros(4, int), np.array([0, 1, 2, 3]), rng=rng)
