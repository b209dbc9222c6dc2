"""Old names and missing fields in saved configs. Every reader of a config.json calls `present_names`.

A new row is all that a renamed field or value, or a new field with a default other than None, needs for older
runs, checkpoints and models to load and to go on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]

RULES = {"ours": "corrected", "released": "original"}

FIELDS: dict[Path, str] = {
    ("task", "masking", "share"): "mask_prob",
    ("task", "masking", "mask_share"): "mask_token_prob",
    ("task", "masking", "random_share"): "random_token_prob",
}
"""Old path of a field in a config -> its present name."""

VALUES: dict[Path, dict[str, str]] = {
    ("data", "sampling_rule"): RULES,
    ("sampling_rule",): RULES,  # of an evaluation, in results.json
    ("task", "ranking_rule"): RULES,
    ("optimizer", "schedule_rule"): RULES,
}
"""Path of a field -> old value -> present value."""


ADDED: dict[Path, Any] = {
    ("optimizer", "head_multiplier"): 1.0,
    ("optimizer", "pixel_encoder_milestones"): [],
}
"""Path of a field that older configs lack -> the value with which they behave as they did."""


def present_names(config: Any) -> Any:
    """Return a saved config, as JSON values, with present names in the place of old ones, and new fields."""
    config = _renamed(config, (), FIELDS, VALUES)
    for path, value in ADDED.items():
        part = _parent(config, path)
        if part is not None:
            part.setdefault(path[-1], copy.copy(value))
    return config


def first_names(config: Any) -> Any:
    """Return a config with the oldest names, for fingerprints: those must outlive a renaming."""
    fields = {(*path[:-1], new): path[-1] for path, new in FIELDS.items()}
    values = {path: {new: old for old, new in names.items()} for path, names in VALUES.items()}
    config = _renamed(config, (), fields, values)
    for path, value in ADDED.items():
        part = _parent(config, path)
        if part is not None and part.get(path[-1]) == value:
            del part[path[-1]]
    return config


def _parent(config: Any, path: Path) -> dict[str, Any] | None:
    """Return the part of a config that has, or lacks, the last field of a path; None without such a part."""
    for name in path[:-1]:
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else None


def _renamed(
    value: Any, path: Path, fields: Mapping[Path, str], values: Mapping[Path, Mapping[str, str]]
) -> Any:
    if isinstance(value, Mapping):
        return {
            fields.get((*path, key), key): _renamed(item, (*path, key), fields, values)
            for key, item in value.items()
        }
    return values.get(path, {}).get(value, value) if isinstance(value, str) else value
