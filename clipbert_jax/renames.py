"""Old names and missing fields in saved configs. Every reader of a config.json calls `present_names`.

A new row is all that a renamed field or value, or a new field with a default other than None, needs for older
runs, checkpoints and models to load and to go on.
"""

from __future__ import annotations

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
    for (*parents, field), value in ADDED.items():
        part = config
        for parent in parents:
            part = part.get(parent) if isinstance(part, Mapping) else None
        if isinstance(part, dict):
            part.setdefault(field, value)
    return config


def first_names(config: Any) -> Any:
    """Return a config with the oldest names, for fingerprints: those must outlive a renaming."""
    fields = {(*path[:-1], new): path[-1] for path, new in FIELDS.items()}
    values = {path: {new: old for old, new in names.items()} for path, names in VALUES.items()}
    return _renamed(config, (), fields, values)


def _renamed(
    value: Any, path: Path, fields: Mapping[Path, str], values: Mapping[Path, Mapping[str, str]]
) -> Any:
    if isinstance(value, Mapping):
        return {
            fields.get((*path, key), key): _renamed(item, (*path, key), fields, values)
            for key, item in value.items()
        }
    return values.get(path, {}).get(value, value) if isinstance(value, str) else value
