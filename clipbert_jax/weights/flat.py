"""Weights as a flat `name -> array` dict, the content of checkpoints and the result of conversions.

A name is the module's attribute path, such as `fusion/layers/0/query/kernel`. Checkpoints of plain names and
arrays outlive the internals of Flax.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Shaped

from clipbert_jax.models.layers import Frozen
from clipbert_jax.weights.formats.refusals import indented, listed, quoted


class WeightsMismatchError(ValueError):
    """Weights that do not fit the model; the message names all missing, unused and mis-shaped entries."""


def flat_parameters(model: nnx.Module) -> dict[str, Shaped[Array, "*dims"]]:
    """Return every weight of the model, trained or frozen, in the order of their names."""
    return {name: variable.get_value() for name, variable in _variables(model).items()}


def parameter_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight; the model may have been made under `nnx.eval_shape`."""
    return {name: variable.shape for name, variable in _variables(model).items()}


def load_flat_parameters(model: nnx.Module, flat: Mapping[str, Shaped[ArrayLike, "*dims"]]) -> None:
    """Set every weight of the model, keeping the model's data types.

    The model may have been made under `nnx.eval_shape`, which saves the time of drawing weights.

    Raises:
      WeightsMismatchError: names or shapes differ from the model's.
    """
    check_names_and_shapes(parameter_shapes(model), {name: jnp.shape(array) for name, array in flat.items()})
    for name, variable in _variables(model).items():
        variable.set_value(jnp.asarray(flat[name], variable.dtype))


def check_names_and_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise one error that lists all differences between two sets of names and shapes."""
    problems = [f"missing: {name} {expected[name]}" for name in expected if name not in found]
    problems += [f"unused: {quoted(name, 200)} {found[name]}" for name in found if name not in expected]
    problems += [
        f"wrong shape: {name} is {found[name]}, the model has {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    if problems:
        raise WeightsMismatchError(
            f"{len(problems)} problems between the weights and the model:\n{indented(problems)}"
        )


def not_finite(flat: Mapping[str, Shaped[ArrayLike, "*dims"]]) -> str:
    """Return which weights hold NaN or infinity, in words; empty if all are finite.

    Numbers that are too large for float32, which models compute in, count as infinity.
    """
    names = [name for name, array in flat.items() if not _is_finite(np.asarray(array))]
    return f"{len(names)} of {len(flat)}: {listed(names)}" if names else ""


def _is_finite(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32) if array.dtype == np.float64 else array).all())


def _variables(model: nnx.Module) -> dict[str, nnx.Variable]:
    state = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, Frozen)))
    return dict(sorted(("/".join(map(str, path)), variable) for path, variable in state))
