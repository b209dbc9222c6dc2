"""What the numbers of a probe come to, in plain words."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from experiments.reports.probe_views import AgreementView

Level = Literal["borne out", "mixed", "no evidence"]

LEAST_DELETION = 1.2
"""What the cells that a map points to must cost, in terms of random ones, to count as more."""


class Verdict(NamedTuple):
    """Whether a map is borne out by taking away what it points to."""

    level: Level
    sentence: str


def verdict(agreement: AgreementView) -> Verdict:
    """Judge a map; what is not defined speaks for nothing."""
    orders = agreement.rank_correlation > agreement.high
    costs = LEAST_DELETION <= agreement.deletion < math.inf
    order, cost = _order(agreement), _cost(agreement)
    if orders and costs:
        return Verdict("borne out", f"Borne out {_strength(agreement)}: {order}, and {cost}.")
    if orders or costs:
        return Verdict("mixed", f"Mixed evidence: {order}, {'but' if orders else 'while'} {cost}.")
    return Verdict(
        "no evidence", f"This map is not evidence of what the model uses here: {order}, and {cost}."
    )


def _strength(agreement: AgreementView) -> str:
    if agreement.rank_correlation < 0.3:
        return "weakly"
    return "in part" if agreement.rank_correlation < 0.6 else "largely"


def _order(agreement: AgreementView) -> str:
    if math.isnan(agreement.rank_correlation):
        return "it has no order of cells to compare"
    if agreement.rank_correlation < agreement.low:
        return "it orders the cells worse than a shuffled map"
    if agreement.rank_correlation <= agreement.high:
        return "it orders the cells no better than a shuffled map"
    return "it orders the cells better than a shuffled map"


def _cost(agreement: AgreementView) -> str:
    if not math.isfinite(agreement.deletion):
        return "random cells cost nothing to compare with"
    if agreement.deletion <= 0:
        return "hiding the cells that it points to costs the score nothing"
    if agreement.deletion < LEAST_DELETION:
        return "hiding the cells that it points to costs no more than hiding random ones"
    return f"hiding the cells that it points to costs {agreement.deletion:.1f} times what random ones cost"


def number(value: float, plus: str = "", digits: int | None = None) -> str:
    """Return a number with as many digits as asked for, or as matter, and a true minus sign."""
    if not math.isfinite(value):
        return "–"  # noqa: RUF001, what tables show for nothing
    text = f"{abs(value):.{digits_of(value) if digits is None else digits}f}"
    if not text.strip("0."):
        return "0"
    return ("−" if value < 0 else plus) + text  # noqa: RUF001, the minus sign is meant


def digits_of(value: float) -> int:
    """Return how many digits after the point matter."""
    size = abs(value)
    return 1 if size >= 10 else 2 if size >= 0.095 else 3 if size >= 0.0095 else 4


def percent(share: float) -> str:
    """Return a probability, which is never told to be certain."""
    if not math.isfinite(share):
        return "–"  # noqa: RUF001, what tables show for nothing
    if 0 < share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.999 < share < 1 else f"{100 * share:.1f} %"
