"""Learning-rate schedules: those of the original's `src/optimization/sched.py`, and corrected ones.

`optimizer.py` makes one schedule for each parameter group. Rates are float64 in JAX's x64 mode, else float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax

ScheduleName = Literal["linear", "inverse_sqrt", "constant", "multi_step"]
ScheduleRule = Literal["corrected", "original"]

RelativeRate = Callable[[jax.Array], jax.typing.ArrayLike]
"""Step (1 for the first update) -> fraction of the peak."""

ORIGINAL_FLOOR = 1e-8
"""Learning rate of the original in the place of one that is not positive."""

_MULTI_STEP_FACTOR = 0.5


def learning_rate_schedule(
    peak: float,
    *,
    num_steps: int,
    warmup_share: float,
    name: ScheduleName = "linear",
    milestones: Sequence[float] = (),
    rule: ScheduleRule = "corrected",
) -> optax.Schedule:
    """Return update count (0 for the first update) -> learning rate.

    As in the original, the first update uses step 1: at step 0 its rate would be 0.

    Args:
      peak: highest learning rate.
      num_steps: number of updates of the whole training.
      warmup_share: warm-up fraction, in which the rate rises linearly from 0, of `linear` and `inverse_sqrt`.
      name: `linear` falls to 0 at the last step, `inverse_sqrt` falls as 1 / sqrt(step), `constant` stays,
        `multi_step` is halved at each milestone. The latter two have no warm-up.
      milestones: rising fractions of all steps.
      rule: `original` has the original's floor and its deeper last step of `multi_step`.
    """
    relative_rate = _relative_rate(name, num_steps, int(warmup_share * num_steps), milestones, rule)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        rate = peak * jnp.asarray(relative_rate(jnp.asarray(count, float) + 1))
        return jnp.where(rate > 0, rate, ORIGINAL_FLOOR) if rule == "original" else rate

    return schedule


def _relative_rate(
    name: ScheduleName, num_steps: int, num_warmup_steps: int, milestones: Sequence[float], rule: ScheduleRule
) -> RelativeRate:
    match name:
        case "linear":
            return _linear(num_steps, num_warmup_steps)
        case "inverse_sqrt":
            # Without warm-up the original stays at its floor, as sqrt(0 / step) is 0.
            return _inverse_sqrt(num_warmup_steps if rule == "original" else max(num_warmup_steps, 1))
        case "constant":
            return optax.constant_schedule(1.0)
        case "multi_step":
            return _multi_step(num_steps, milestones, rule)


def _linear(num_steps: int, num_warmup_steps: int) -> RelativeRate:
    # Not optax.linear_schedule: its 1 - step / num_steps loses digits near the end.
    def relative_rate(step: jax.Array) -> jax.Array:
        falling = (num_steps - step) / max(num_steps - num_warmup_steps, 1)
        return jnp.where(step < num_warmup_steps, _rising(step, num_warmup_steps), jnp.maximum(falling, 0.0))

    return relative_rate


def _inverse_sqrt(num_warmup_steps: int) -> RelativeRate:
    def relative_rate(step: jax.Array) -> jax.Array:
        falling = jnp.sqrt(num_warmup_steps / step)
        return jnp.where(step <= num_warmup_steps, _rising(step, num_warmup_steps), falling)

    return relative_rate


def _rising(step: jax.Array, num_warmup_steps: int) -> jax.Array:
    return step / max(num_warmup_steps, 1)


def _multi_step(num_steps: int, milestones: Sequence[float], rule: ScheduleRule) -> RelativeRate:
    factors = [_MULTI_STEP_FACTOR**num_passed for num_passed in range(len(milestones) + 1)]
    if rule == "original":
        factors[-1] *= _MULTI_STEP_FACTOR  # two milestones give 1, 0.5, 0.125
    # The first step that completes the share. Products such as 0.55 * 100 are above the whole number.
    boundaries = [math.ceil(share * num_steps - 1e-6) for share in milestones]
    return optax.join_schedules([optax.constant_schedule(factor) for factor in factors], boundaries)
