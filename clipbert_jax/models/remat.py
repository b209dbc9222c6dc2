"""Rematerialisation: the backward pass computes values again instead of keeping them in memory.

The train step sets the attribute `remat` of the pixel encoder and of the fusion; neither parameters nor the
model's configuration know of it. Dropout is a function of keys, and so the same when it is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import jax

Remat = Literal["none", "dots", "full"]
"""Values that are kept for the backward pass. `none`: all that gradients need. `full`: only the input of each
residual block and each fusion layer. `dots`: also the results of products with weights in fusion layers;
residual blocks keep the same values as with `none`."""

_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def rematerialised(function: Callable[Arguments, Result], remat: Remat) -> Callable[Arguments, Result]:
    """Return the function; the backward pass keeps only those of its values that `remat` names."""
    return function if remat == "none" else jax.checkpoint(function, policy=_POLICIES[remat])
