"""Linear probes: what a linear classifier can read off hidden states, layer by layer.

A multinomial logistic regression on standardised states, trained on some videos and tested on others. (Least
squares hides a middle class, such as two of one to three, behind its neighbours.) A probe that is right shows
that the states hold the answer, not that the model uses it. Large states also let a probe learn by heart, so
a control task with random labels measures that: Hewitt and Liang, "Designing and Interpreting Probes with
Control Tasks", EMNLP 2019.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from clipbert_jax.evaluation.bootstrap import bootstrap_intervals

_MAX_ITERATIONS = 5000
_TOLERANCE = 1e-4
"""Length of the gradient at which training stops."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeAccuracy:
    """Accuracy of the probe of one layer on test videos; all numbers are shares."""

    accuracy: float
    low: float
    high: float
    """Bounds of the 95 % interval over test videos."""
    chance: float
    """Accuracy of always giving the most frequent training label."""
    control: float
    """Mean accuracy of probes of the same states on control tasks, whose labels are random."""

    @property
    def selectivity(self) -> float:
        """Accuracy above that of learning by heart."""
        return self.accuracy - self.control


def probe_layers(
    states: Float[np.ndarray, "layers m d"],
    labels: Int[np.ndarray, " m"],
    videos: Shaped[np.ndarray, " m"],
    *,
    rng: np.random.Generator,
    types: Shaped[np.ndarray, " m"] | None = None,
    test_share: float = 0.3,
    l2: float = 1e-2,
    num_controls: int = 3,
) -> list[ProbeAccuracy]:
    """Train and test a probe of every layer; all have the same split and the same control tasks.

    Args:
      states: states of m examples, such as tokens or clips.
      labels: label of each example.
      videos: video of each example; all examples of a video are on the same side of the split.
      rng: generator that draws the test videos and the labels of the control tasks.
      types: groups that share a label in a control task, such as words; None groups by video, and then
        no probe can know the labels of test videos.
      test_share: share of the videos that are tested on; at least one is.
      l2: half the penalty of squared weights, beside the mean cross-entropy.
      num_controls: number of control tasks.

    Raises:
      ValueError: fewer than two videos, or training examples of a single label.
    """
    is_test = split_by_video(videos, test_share, rng)
    classes, places = np.unique(labels, return_inverse=True)
    if len(np.unique(places[~is_test])) < 2:
        raise ValueError("A probe needs training examples of at least two labels.")
    types = videos if types is None else types
    tasks = [places, *(control_labels(places, types, rng) for _ in range(num_controls))]
    most_frequent = np.bincount(places[~is_test]).argmax()
    chance = float((places[is_test] == most_frequent).mean())
    results = []
    for of_layer in states:
        own, *controls = (
            _is_right(of_layer, task, is_test, num_classes=len(classes), l2=l2) for task in tasks
        )
        drawn = bootstrap_intervals(lambda rows, own=own: {"own": float(own[rows].mean())}, videos[is_test])
        low, high = drawn["own"]
        results.append(
            ProbeAccuracy(
                accuracy=float(own.mean()),
                low=low,
                high=high,
                chance=chance,
                control=float(np.mean(controls)) if controls else chance,
            )
        )
    return results


def split_by_video(
    videos: Shaped[np.ndarray, " m"], test_share: float, rng: np.random.Generator
) -> Bool[np.ndarray, " m"]:
    """Return which examples are tested on: those of randomly drawn videos.

    Raises:
      ValueError: there are fewer than two videos.
    """
    names = np.unique(videos)
    if len(names) < 2:
        raise ValueError("A probe needs examples of at least two videos: one to train on, one to test on.")
    num_test = min(max(1, round(test_share * len(names))), len(names) - 1)
    return np.isin(videos, rng.permutation(names)[:num_test])


def control_labels(
    labels: Int[np.ndarray, " m"], types: Shaped[np.ndarray, " m"], rng: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """Return random labels: one for each type, shuffled among the types."""
    _, first, places = np.unique(types, return_index=True, return_inverse=True)
    return rng.permutation(labels[first])[places]


def _is_right(
    states: Float[np.ndarray, "m d"],
    labels: Int[np.ndarray, " m"],
    is_test: Bool[np.ndarray, " m"],
    *,
    num_classes: int,
    l2: float,
) -> Float[np.ndarray, " tested"]:
    mean, spread = states[~is_test].mean(axis=0), states[~is_test].std(axis=0)
    scaled = (states - mean) / np.where(spread > 0, spread, 1)
    weights, bias = fit(scaled[~is_test], labels[~is_test], num_classes=num_classes, l2=l2)
    predicted = (scaled[is_test] @ weights + bias).argmax(axis=1)
    return (predicted == labels[is_test]).astype(np.float64)


def fit(
    states: Float[np.ndarray, "m d"], labels: Int[np.ndarray, " m"], *, num_classes: int, l2: float
) -> tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]]:
    """Return weights and bias of the regression, found by Nesterov's gradient descent.

    Args:
      states: standardised states, so that the penalty treats all alike.
      labels: class of each example, from 0.
      num_classes: number of classes; a class may have no examples.
      l2: half the penalty of squared weights and biases, beside the mean cross-entropy; above 0.
    """
    inputs = np.concatenate([states, np.ones((len(states), 1))], axis=1, dtype=np.float64)
    wanted = np.eye(num_classes)[labels]
    # Bounds of the curvature (Böhning, 1992) give the step and the momentum.
    steepest = 0.5 * np.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1] + l2
    momentum = (np.sqrt(steepest) - np.sqrt(l2)) / (np.sqrt(steepest) + np.sqrt(l2))
    weights = ahead = np.zeros((inputs.shape[1], num_classes))
    for _ in range(_MAX_ITERATIONS):
        gradient = inputs.T @ (_softmax(inputs @ ahead) - wanted) / len(inputs) + l2 * ahead
        if np.linalg.norm(gradient) < _TOLERANCE:
            break
        before, weights = weights, ahead - gradient / steepest
        ahead = weights + momentum * (weights - before)
    return ahead[:-1], ahead[-1]


def _softmax(logits: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m c"]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
