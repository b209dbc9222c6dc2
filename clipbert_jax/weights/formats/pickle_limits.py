"""Limits on the collections and names of a pickle, for `pickle_reader`: a small file can ask for much."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from clipbert_jax.weights.formats.refusals import SAVE_AS_STATE_DICT, SAVE_WITHOUT_CODE, Refusal

MAX_NAME_BYTES = 1024
"""Longest name of a module, an attribute or an array; longer text is never decoded."""
MAX_DEPTH = 64
MAX_NUMBER_KEYS = 10_000
"""Most integers as keys in all dicts together, counted each time one is set.

Optimizers number their parameters, so some are needed. But the hashes of integers, unlike those of text, are
known: a file can choose keys that all collide.
"""


@dataclasses.dataclass(frozen=True)
class LongText:
    """Text that is too long for a name, still encoded: in old pickles, the bytes of an array."""

    data: memoryview
    encoding: str


class KeyCheck:
    """Refuses keys whose hash can cost much: of tuples in tuples, or of integers chosen to collide."""

    def __init__(self) -> None:
        self._num_numbers = 0

    def __call__(self, key: object) -> None:
        if isinstance(key, str) or key is None:
            return
        if isinstance(key, LongText):
            raise Refusal(f"has a name of more than {MAX_NAME_BYTES:,} bytes")
        if not (isinstance(key, int) and -(2**63) <= key < 2**63):
            raise Refusal("has a dict whose keys are neither text nor numbers")
        self._num_numbers += 1
        if self._num_numbers > MAX_NUMBER_KEYS:
            raise Refusal(f"has dicts with more than {MAX_NUMBER_KEYS:,} numbers as keys", SAVE_AS_STATE_DICT)


def check_depth(result: object) -> None:
    """Refuse what lies in more collections than any checkpoint has.

    Visits every collection once, however often others refer to it: their paths can be more than atoms.
    """
    level, seen = [result], {id(result)}
    for _ in range(MAX_DEPTH):
        below = {id(child): child for parent in level for child in _collections_in(parent)}
        level = [child for key, child in below.items() if key not in seen]
        seen |= below.keys()
        if not level:
            return
    raise Refusal(f"nests collections more than {MAX_DEPTH} deep in its pickle", SAVE_WITHOUT_CODE)


def _collections_in(parent: Any) -> Iterator[Any]:
    children = parent.values() if isinstance(parent, dict) else parent
    if isinstance(parent, dict | list | tuple):
        yield from (child for child in children if isinstance(child, dict | list | tuple))
