"""Gives the arrays of an original checkpoint our names and layouts, without a file."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from clipbert_jax.weights.names.original_names import ALIASES, IGNORED, to_our_name


def is_ignored(name: str) -> bool:
    """Return whether a rule says that an original name has no counterpart here."""
    return any(re.fullmatch(pattern, name) for pattern in IGNORED)


def from_original(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return our flat weights; every name must be claimed by a rule."""
    flat = {}
    for name, array in state.items():
        if name not in ALIASES and not is_ignored(name):
            renamed = to_our_name(name)
            assert renamed is not None, name
            flat[renamed[0]] = renamed[1].to_ours(np.asarray(array))
    return flat
