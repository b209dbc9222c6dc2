"""A model without its arrays: what jitted functions close over, so that arrays travel as flat dicts.

A Flax NNX model is split once, outside of `jax.jit`, and merged again inside: the host then handles
a flat `name -> array` dict at each step and no Python objects (see docs/adr/0001).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

Parameters = dict[str, Any]
"""Arrays by flat name, such as `fusion/layers/0/query/kernel`; JAX also puts shapes in their place."""


@dataclasses.dataclass(frozen=True)
class ModelDef:
    """The structure of a model and the flat names of its arrays, in the structure's order."""

    graphdef: nnx.GraphDef[Any]
    treedef: jax.tree_util.PyTreeDef
    names: tuple[str, ...]

    def merge(self, arrays: Mapping[str, Any]) -> Any:
        """Return the model that holds `arrays`; works on tracers inside `jax.jit`."""
        state = jax.tree_util.tree_unflatten(self.treedef, [arrays[name] for name in self.names])
        return nnx.merge(self.graphdef, state, copy=True)


def split_model(model: nnx.Module) -> tuple[ModelDef, Parameters, Parameters]:
    """Return the model_def, the trainable arrays and the frozen ones (both by flat name)."""
    graphdef, state = nnx.split(model)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(state)
    arrays = {flat_name(path): leaf for path, leaf in leaves}
    trainable_leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.state(model, nnx.Param))
    trainable = {flat_name(path) for path, _ in trainable_leaves}
    return (
        ModelDef(graphdef, treedef, tuple(arrays)),
        {name: array for name, array in arrays.items() if name in trainable},
        {name: array for name, array in arrays.items() if name not in trainable},
    )


def flat_name(path: tuple[Any, ...]) -> str:
    """Return `a/b/0/kernel` for a JAX key path into an NNX state."""
    keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", None)))) for key in path]
    return "/".join(keys[:-1] if keys[-1] in ("value", "raw_value") else keys)
