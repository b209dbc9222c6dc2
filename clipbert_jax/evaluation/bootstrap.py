"""Confidence intervals of metrics, by resampling the evaluated videos.

Questions or captions of one video are not independent: a video that the model misses costs all of them at
once. So videos are drawn, each with all of its questions or captions.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
from jaxtyping import Int, Shaped


def bootstrap_intervals(
    metrics: Callable[[Int[np.ndarray, " drawn"]], dict[str, float]],
    clusters: Sequence[Hashable] | Shaped[np.ndarray, " m"],
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return a percentile interval (low, high) for every metric; the same for the same seed.

    Each resample draws as many videos as there are, with replacement. The interval shows how the metric
    varies over videos of the same kind; it does not cover other training runs.

    Args:
      metrics: function of the indices of some examples; a video drawn twice occurs twice. Values that do not
        depend on the choice of examples, such as ranks, are best computed before. Resamples without
        examples of a rare kind do not count for its metric.
      clusters: the video of each example.
      num_resamples: number of resamples, and of calls of `metrics`.
      confidence: share of the resampled values inside the interval.
      seed: seed of the draws.

    Raises:
      ValueError: there are no examples, no resamples, or `confidence` is not between 0 and 1.
    """
    if not len(clusters) or num_resamples < 1:
        raise ValueError(f"Cannot draw {num_resamples} resamples of {len(clusters)} examples.")
    if not 0 < confidence < 1:
        raise ValueError(f"The confidence must be between 0 and 1, not {confidence}.")
    values: dict[str, list[float]] = collections.defaultdict(list)
    for examples in _resamples(_cluster_numbers(clusters), num_resamples, np.random.default_rng(seed)):
        for name, value in metrics(examples).items():
            values[name].append(value)
    tail = (1 - confidence) / 2
    return {name: _quantiles(of_resamples, tail) for name, of_resamples in values.items()}


def _cluster_numbers(clusters: Sequence[Hashable] | np.ndarray) -> Int[np.ndarray, " m"]:
    """Number the clusters in the order in which they appear."""
    labels = clusters.tolist() if isinstance(clusters, np.ndarray) else clusters
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels])


def _resamples(
    cluster_of_example: Int[np.ndarray, " m"], num_resamples: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, " drawn"]]:
    """Yield the indices of the examples of randomly drawn clusters."""
    by_cluster = np.argsort(cluster_of_example, kind="stable")
    sizes = np.bincount(cluster_of_example)
    starts = np.cumsum(sizes) - sizes
    for _ in range(num_resamples):
        drawn = rng.integers(len(sizes), size=len(sizes))
        drawn_sizes = sizes[drawn]
        # Where each drawn cluster starts in `by_cluster`, less where it starts in the resample.
        shifts = starts[drawn] - (np.cumsum(drawn_sizes) - drawn_sizes)
        yield by_cluster[np.repeat(shifts, drawn_sizes) + np.arange(drawn_sizes.sum())]


def _quantiles(values: Sequence[float], tail: float) -> tuple[float, float]:
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
