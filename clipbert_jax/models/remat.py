"""Rematerialisation: what the backward pass computes again, so that it need not be kept in memory.

The train step sets the attribute `remat` of the pixel encoder and of the fusion; neither parameters nor the
model's configuration know of it. Dropout is a function of keys, and so the same when it is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import jax

Remat = Literal["none", "dots", "full"]
"""`none`: keep all that gradients ask for. `full`: of each residual block and each fusion layer keep the
input alone. `dots`: of each fusion layer also keep what its products with weights put out; residual blocks
stay as they are, as of them little else is kept in the first place."""

_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def rematerialised(function: Callable[Arguments, Result], remat: Remat) -> Callable[Arguments, Result]:
    """Return the function, of whose inner values the backward pass keeps only what `remat` says."""
    return function if remat == "none" else jax.checkpoint(function, policy=_POLICIES[remat])
