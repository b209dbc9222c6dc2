"""What the golden cases of training steps share: batches of their rows, and the check of a gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from clipbert_jax.batch import Batch
from clipbert_jax.weights.names.original_names import ALIASES, to_original
from tests.goldens import golden


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerances:
    loss: float
    """Relative."""
    norm: float
    """Relative, of the gradient of an array, a group of arrays, all arrays."""
    value: float
    """Of single values, over the root mean square of the array's gradient."""
    rounding: float
    """What is left where a gradient is zero, over the norm of all gradients."""


# The reference's pixel means were rounded to float32, an effect of 1e-8.
FLOAT64 = Tolerances(loss=1e-7, norm=1e-6, value=1e-5, rounding=1e-15)
# ReLU and max-pool switches make single values in early layers differ by so much in the original too.
FLOAT32 = Tolerances(loss=1e-5, norm=3e-3, value=3e-2, rounding=1e-7)


def fill(rows: np.ndarray, counts: np.ndarray, filling: float) -> np.ndarray:
    """Put the original's rows of texts, `counts` of each video, on a fixed axis [b n ...]."""
    is_text = _is_text(counts)
    filled = np.full((*is_text.shape, *rows.shape[1:]), filling, rows.dtype)
    filled[is_text] = rows
    return filled


def make_batch(
    frames: np.ndarray,
    inputs: Mapping[str, np.ndarray],
    counts: np.ndarray,
    labels: np.ndarray,
    token_labels: np.ndarray | None = None,
) -> Batch:
    """Return a batch whose missing texts are full of words, which must not matter."""
    return Batch(
        frames=frames,
        text_ids=fill(inputs["text_input_ids"], counts, 7),
        text_mask=fill(inputs["text_input_mask"], counts, 1) > 0,
        text_valid=_is_text(counts),
        labels=labels,
        example_mask=np.ones(len(frames), bool),
        token_labels=token_labels,
    )


def _is_text(counts: np.ndarray) -> np.ndarray:
    return np.arange(counts.max()) < counts[:, None]


def check_gradient(
    file: str, name: str, gradient: Mapping[str, np.ndarray], tolerances: Tolerances, *, prefix: str = ""
) -> None:
    """Compare a gradient, under our names, with that of case `name` of a file.

    Args:
      file: without the ending.
      name: of the case in the file.
      gradient: of every trained parameter whose original name starts with `prefix`.
      tolerances: see there.
      prefix: leaves out the norm of all gradients together unless it is empty.
    """
    case = golden.load_case(file)
    index_of, reference = golden.part(case, f"in/{name}/grad_index/"), golden.part(case, f"f64/{name}/")
    groups = golden.manifest()["cases"][f"{file}.npz"]["meta"]["grad_groups"][name]
    total = reference["grad_norm"][0]

    actual = {key: array for key, array in to_original(gradient).items() if key not in ALIASES}
    squares = {key: np.sum(np.square(array, dtype=np.float64)) for key, array in actual.items()}
    members = {group: [key for key in actual if key.startswith(f"{group}.")] for group in groups}
    wanted = {group for group in groups if group.startswith(prefix)}
    assert {group for group in groups if members[group]} == wanted
    assert sum(len(keys) for keys in members.values()) == len(actual), "every array is in one group"
    for group, norm in zip(groups, reference["group_grad_norms"], strict=True):
        if group in wanted:
            actual_norm = np.sqrt(sum(squares[key] for key in members[group]))
            np.testing.assert_allclose(actual_norm, norm, rtol=tolerances.norm, err_msg=group)
    if not prefix:
        np.testing.assert_allclose(np.sqrt(sum(squares.values())), total, rtol=tolerances.norm)

    for key, index in index_of.items():
        if key.startswith(prefix):
            values, l2 = reference[f"grad/{key}"], reference[f"grad_l2/{key}"]
            if l2 < 1e-12 * total:  # zero by symmetry: rounding is all there is
                assert np.sqrt(squares[key]) <= tolerances.rounding * total, key
                continue
            error = np.abs(actual[key].reshape(-1)[index] - values).max()
            scale = l2 / np.sqrt(actual[key].size)
            assert error <= tolerances.value * scale, f"{key}: error {error / scale:.1e} of the rms"
            np.testing.assert_allclose(np.sqrt(squares[key]), l2, rtol=tolerances.norm, err_msg=key)
