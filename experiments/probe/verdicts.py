"""Verdicts on the maps of a probe in plain words, and the format of its numbers."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from clipbert_jax.probing.faithfulness import MapFaithfulness

Level = Literal["faithful", "mixed", "no evidence"]


class Verdict(NamedTuple):
    """Verdict on a map: is it faithful, judged by hiding what it points to?"""

    level: Level
    sentence: str


def verdict(found: MapFaithfulness) -> Verdict:
    """Judge a map."""
    orders, costs = found.rank.is_above_chance, found.is_costlier
    order, cost = _order(found), _cost(found)
    if orders and costs:
        return Verdict("faithful", f"Faithful {_strength(found)}: {order}, and {cost}.")
    if orders or costs:
        return Verdict("mixed", f"Mixed evidence: {order}, {'but' if orders else 'while'} {cost}.")
    return Verdict(
        "no evidence", f"This map is not evidence of what the model uses here: {order}, and {cost}."
    )


def _strength(found: MapFaithfulness) -> str:
    if found.rank.correlation < 0.3:
        return "weakly"
    return "in part" if found.rank.correlation < 0.6 else "largely"


def _order(found: MapFaithfulness) -> str:
    if found.rank.is_above_chance:
        return "it orders the cells better than the same map in other places"
    if not found.rank.can_tell:
        return "the picture has too few cells to tell its order from chance"
    worse = "worse than" if found.rank.correlation < found.rank.low else "no better than"
    return f"it orders the cells {worse} the same map in other places"


def _cost(found: MapFaithfulness) -> str:
    costs, others = number(found.loss), number(found.random_loss)
    if found.is_costlier:
        return f"hiding the cells that it points to costs {costs}, against {others} for other cells"
    return f"hiding the cells that it points to costs {costs}, no more than other cells ({others} on average)"


def number(value: float, plus: str = "", digits: int | None = None) -> str:
    """Return a number with the given digits, or those that matter, and a true minus sign."""
    if not math.isfinite(value):
        return "–"  # noqa: RUF001, an empty cell of a table
    text = f"{abs(value):.{digits_of(value) if digits is None else digits}f}"
    if not text.strip("0."):
        return "0"
    return ("−" if value < 0 else plus) + text  # noqa: RUF001, a minus sign


def digits_of(value: float) -> int:
    """Return the number of digits after the point that matter."""
    size = abs(value)
    return 1 if size >= 10 else 2 if size >= 0.095 else 3 if size >= 0.0095 else 4


def percent(share: float) -> str:
    """Return a probability as a percentage; it never reads as certain."""
    if not math.isfinite(share):
        return "–"  # noqa: RUF001, an empty cell of a table
    if 0 < share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.999 < share < 1 else f"{100 * share:.1f} %"
