"""Linear probes: what a line through hidden states can tell, layer by layer.

A multinomial logistic regression on standardised states, trained on some videos and tested on others. (Least
squares would have a closed form, but hides a class in the middle, such as two of one to three, behind its
neighbours.) That a probe is right says that the states hold the answer, not that the model uses it; and a
large enough state tells anything about what a probe has seen often enough. So beside it stands a control
task, whose labels mean nothing: Hewitt and Liang, "Designing and Interpreting Probes with Control Tasks",
EMNLP 2019.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from clipbert_jax.evaluation.bootstrap import bootstrap_intervals

_MAX_ITERATIONS = 5000
_TOLERANCE = 1e-4
"""Of the gradient's length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeAccuracy:
    """Of the probe of one layer, on videos that it was not trained on; shares."""

    accuracy: float
    low: float
    high: float
    """The 95 % interval over test videos."""
    chance: float
    """Of the label that is the most frequent in training."""
    control: float
    """Of probes of the same states that are trained and tested on labels without meaning; mean of some."""

    @property
    def selectivity(self) -> float:
        """How much of the accuracy is more than learning by heart gives."""
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
      states: of m examples, such as tokens or clips.
      labels: what is to be told of each.
      videos: which video each is from; all examples of a video are on the same side of the split.
      rng: draws the test videos and the labels of the control tasks.
      types: what a control task gives one label each, such as the words; None for every video its own, which
        then no probe can know in test videos.
      test_share: of the videos, at least one.
      l2: half the penalty of squared weights, beside the mean cross-entropy.
      num_controls: control tasks.

    Raises:
      ValueError: less than two videos, or training examples of a single label.
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
    """Return which examples are tested on: those of a share of the videos, drawn at random.

    Raises:
      ValueError: there are less than two videos.
    """
    names = np.unique(videos)
    if len(names) < 2:
        raise ValueError("A probe needs examples of two videos or more, for it is tested on others.")
    num_test = min(max(1, round(test_share * len(names))), len(names) - 1)
    return np.isin(videos, rng.permutation(names)[:num_test])


def control_labels(
    labels: Int[np.ndarray, " m"], types: Shaped[np.ndarray, " m"], rng: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """Return labels without meaning: one for each type, shuffled among the types."""
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
    """Return weights and bias of the regression's one solution, found by Nesterov's gradient descent.

    Args:
      states: standardised, else the penalty is not the same for all of them.
      labels: from 0 on.
      num_classes: how many labels there are; one without examples gets the least.
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
