"""The check of a number that a user has given, for validators beside configs and for commands."""

from __future__ import annotations

import math

from clipbert_jax.errors import UserError


def check_range(option: str, value: int | float, least: int | float, most: int | float = math.inf) -> None:
    """Refuse a number out of range, infinite or NaN.

    Raises:
      UserError: names the option and its range.
    """
    if not least <= value <= most or value == math.inf:
        span = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise UserError(f"{option} must be {span}, not {value:g}")


def option_name(group: str, field: str) -> str:
    """Return the option of a config's field, such as --train.batch-size."""
    return f"--{group}.{field.replace('_', '-')}"
