"""Bootstrap intervals against what theory says of simulated questions."""

import functools

import numpy as np
import pytest

from clipbert_jax.evaluation.bootstrap import bootstrap_intervals
from clipbert_jax.evaluation.metrics import accuracy_metrics, rank_metrics


def accuracy_of(is_right: np.ndarray):
    return lambda examples: accuracy_metrics(is_right[examples])


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_independent_questions_give_the_normal_approximation():
    is_right = np.random.default_rng(0).random(2000) < 0.7
    low, high = bootstrap_intervals(accuracy_of(is_right), range(2000), num_resamples=4000)["accuracy"]
    share = is_right.mean()
    half_width = 1.96 * np.sqrt(share * (1 - share) / 2000)
    assert low == pytest.approx(100 * (share - half_width), abs=0.2)
    assert high == pytest.approx(100 * (share + half_width), abs=0.2)


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(1)
    holds = []
    for trial in range(200):
        is_right = random.random(150) < 0.6
        intervals = bootstrap_intervals(
            accuracy_of(is_right), range(150), num_resamples=300, confidence=0.9, seed=trial
        )
        low, high = intervals["accuracy"]
        holds.append(low <= 60.0 <= high)
    # 200 trials of probability 0.9: a standard error of 0.02. Percentiles of 150 questions are a bit narrow.
    assert 0.83 <= np.mean(holds) <= 0.96


def test_questions_of_one_video_widen_the_interval():
    # All 10 questions of a video have the same outcome: 100 independent outcomes, and not 1,000.
    is_right = np.repeat(np.random.default_rng(2).random(100) < 0.5, 10)
    videos = np.repeat([f"video{number}" for number in range(100)], 10)
    alone = bootstrap_intervals(accuracy_of(is_right), range(1000))["accuracy"]
    together = bootstrap_intervals(accuracy_of(is_right), videos)["accuracy"]
    assert width(together) == pytest.approx(np.sqrt(10) * width(alone), rel=0.15)


def test_every_drawn_video_comes_with_all_its_examples():
    clusters = ["b", "a", "b", "c", "b", "a"]
    seen = []

    def record(examples: np.ndarray) -> dict[str, float]:
        seen.append(examples.tolist())
        return {}

    assert bootstrap_intervals(record, clusters, num_resamples=50) == {}
    groups = {"a": [1, 5], "b": [0, 2, 4], "c": [3]}
    for examples in seen:
        counts = np.bincount(examples, minlength=6)
        drawn = {name: counts[members[0]] for name, members in groups.items()}
        assert sum(drawn.values()) == 3
        assert all(counts[member] == drawn[name] for name, members in groups.items() for member in members)
    assert len({tuple(examples) for examples in seen}) > 10


def test_a_single_video_gives_no_width():
    intervals = bootstrap_intervals(accuracy_of(np.array([True, False, True, True])), ["a"] * 4)
    assert intervals == {"accuracy": (75.0, 75.0)}


def test_the_seed_decides():
    ranks = np.random.default_rng(3).integers(1, 50, size=80)
    videos = np.arange(80) // 2
    intervals = functools.partial(
        bootstrap_intervals, lambda examples: rank_metrics(ranks[examples]), videos, num_resamples=100
    )
    assert intervals(seed=5) == intervals(seed=5)
    assert intervals(seed=5) != intervals(seed=6)
    assert list(intervals()) == ["r1", "r5", "r10", "median_rank", "mean_rank"]


def test_a_rare_type_is_judged_by_the_resamples_that_have_it():
    is_right, types = np.array([True, False, True, False]), np.array(["how", "how", "how", "why"])
    intervals = bootstrap_intervals(
        lambda examples: accuracy_metrics(is_right[examples], types[examples]), range(4), num_resamples=200
    )
    assert intervals["accuracy/why"] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("clusters", "options", "message"),
    [
        ([], {}, "1000 resamples of 0 examples"),
        (["a"], {"num_resamples": 0}, "0 resamples of 1 examples"),
        (["a"], {"confidence": 95.0}, "between 0 and 1, not 95"),
    ],
)
def test_what_cannot_be_resampled_is_refused(clusters, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(lambda examples: {}, clusters, **options)
