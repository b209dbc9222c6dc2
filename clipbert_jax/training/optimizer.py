"""The optimizer: AdamW with parameter groups, global-norm clipping and a schedule (`schedules.py`).

Groups follow `src/optimization/utils.py` of the original: the pixel encoder and the transformer have their
own learning rates and decay, and biases and norms do not decay. `adamw_original` also follows its
`src/optimization/adamw.py`. The differences are in `docs/fidelity.md`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from clipbert_jax.errors import UserError
from clipbert_jax.training.schedules import ScheduleName, ScheduleRule, learning_rate_schedule

Algorithm = Literal["adamw", "adamw_original"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    algorithm: Algorithm = "adamw"
    """Kind of AdamW: Optax's, or the original's.
    The latter adds eps before the bias correction, decays updated weights, clips by max / (norm + 1e-6)."""
    transformer_learning_rate: float = 5e-5
    """Peak learning rate of text encoder, cross-modal fusion and head."""
    pixel_encoder_learning_rate: float = 5e-5
    """Peak learning rate of the pixel encoder."""
    grid_encoder_multiplier: float = 1.0
    """Factor of the pixel encoder's learning rate for the grid projection (`cnn_lr_mul` of the original)."""
    head_multiplier: float = 1.0
    """Factor of the transformer's learning rate for the head.
    In the original, `transformer_lr_mul` with the prefix `classifier`."""
    weight_decay: float = 1e-3
    """Weight decay per unit of learning rate, of all parameters but biases and norms."""
    pixel_encoder_weight_decay: float | None = None
    """Weight decay of the pixel encoder; default: the value of weight_decay."""
    beta1: float = 0.9
    """Decay of the running mean of gradients."""
    beta2: float = 0.98
    """Decay of the running mean of squared gradients."""
    eps: float = 1e-6
    """Term added to the root of the mean square."""
    schedule: ScheduleName = "linear"
    """Course of the learning rate.
    After a warm-up `linear` falls to 0 and `inverse_sqrt` slowly; `multi_step` halves at each milestone."""
    schedule_rule: ScheduleRule = "corrected"
    """Rule of the schedule; with `original` a rate of 0 becomes 1e-8, and the last milestone counts twice."""
    warmup_share: float = 0.1
    """Warm-up fraction: the part of all steps in which the learning rate rises linearly from 0."""
    milestones: tuple[float, ...] = ()
    """Milestones of `multi_step` as fractions of all steps, such as 0.5 0.75."""
    pixel_encoder_schedule: ScheduleName | None = None
    """Course of the pixel encoder's learning rate; default: the value of schedule, with its milestones."""
    pixel_encoder_milestones: tuple[float, ...] = ()
    """Milestones of the pixel encoder's own `multi_step`."""
    max_grad_norm: float = 5.0
    """Global norm to which larger gradients are scaled down; 0 turns clipping off."""


def check_optimizer_config(config: OptimizerConfig) -> None:
    """Refuse settings that cannot train.

    Raises:
      UserError: names the first such option.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise _wrong(field.name, f"a number from 0 on, not {value}")
    for name in ("beta1", "beta2"):
        if getattr(config, name) >= 1:
            raise _wrong(name, f"less than 1, not {getattr(config, name)}")
    if config.warmup_share > 1:
        raise _wrong("warmup_share", f"a share from 0 to 1, not {config.warmup_share}")
    _check_milestones("", config.schedule, config.milestones)
    _check_milestones("pixel_encoder_", config.pixel_encoder_schedule, config.pixel_encoder_milestones)


def _check_milestones(prefix: str, schedule: ScheduleName | None, shares: tuple[float, ...]) -> None:
    name, option = f"{prefix}milestones", f"--optimizer.{prefix.replace('_', '-')}schedule"
    is_rising = all(first < second for first, second in zip((0.0, *shares), (*shares, 1.0), strict=True))
    if not is_rising:
        raise _wrong(name, f"rising shares between 0 and 1, not {' '.join(map(str, shares))}")
    if schedule == "multi_step" and not shares:
        raise _wrong(name, f"given with {option} multi_step")
    if schedule != "multi_step" and shares:
        raise _wrong(name, f"left out, as only {option} multi_step has any")


def _wrong(field: str, problem: str) -> UserError:
    return UserError(f"--optimizer.{field.replace('_', '-')} must be {problem}")


def parameter_group(name: str, config: OptimizerConfig) -> str:
    """Return the learning-rate group of a parameter from its flat name.

    The head has a group of its own only if its rate is its own: a group is a part of checkpoints.
    """
    if name.startswith("pixel_encoder/grid_encoder/"):
        return "grid_encoder"
    if name.startswith("pixel_encoder/"):
        return "pixel_encoder"
    has_own_rate = config.head_multiplier != 1
    return "head" if has_own_rate and name.startswith("head/") else "transformer"


def is_decayed(name: str) -> bool:
    """Return whether a parameter decays: all do but biases and scales of norms."""
    return not name.endswith(("bias", "scale"))


def make_schedules(config: OptimizerConfig, num_steps: int) -> dict[str, optax.Schedule]:
    """Return the learning-rate schedule (of the update count) of each parameter group."""

    def schedule(peak: float, name: ScheduleName, milestones: tuple[float, ...]) -> optax.Schedule:
        return learning_rate_schedule(
            peak,
            num_steps=num_steps,
            warmup_share=config.warmup_share,
            name=name,
            milestones=milestones,
            rule=config.schedule_rule,
        )

    usual = config.schedule, config.milestones
    own = config.pixel_encoder_schedule
    pixel_encoder = schedule(
        config.pixel_encoder_learning_rate, *((own, config.pixel_encoder_milestones) if own else usual)
    )
    transformer = schedule(config.transformer_learning_rate, *usual)
    schedules = {
        "pixel_encoder": pixel_encoder,
        # Multiplied last: the original's last update of this group has rate 2e-8 where its multiplier is 2.
        "grid_encoder": lambda count: config.grid_encoder_multiplier * pixel_encoder(count),
        "transformer": transformer,
    }
    if config.head_multiplier != 1:
        schedules["head"] = lambda count: config.head_multiplier * transformer(count)
    return schedules


def make_optimizer(config: OptimizerConfig, *, num_steps: int) -> optax.GradientTransformation:
    """Build the transformation for parameters kept as a flat dict `name -> array`.

    Its `update` takes `is_finite`. If that is false, moments and their count stay as they were, and the
    updates mean nothing; schedules go on, so that rates always belong to the number of the step.

    Raises:
      UserError: as in `check_optimizer_config`.
    """
    check_optimizer_config(config)
    groups: dict[Hashable, optax.GradientTransformation] = {
        group: _scale_and_decay(config, schedule, _weight_decay(config, group))
        for group, schedule in make_schedules(config, num_steps).items()
    }
    return optax.chain(
        _clip(config),
        _scale_by_adam(config),
        optax.partition(groups, lambda params: {name: parameter_group(name, config) for name in params}),
    )


def _weight_decay(config: OptimizerConfig, group: str) -> float:
    if group in ("transformer", "head") or config.pixel_encoder_weight_decay is None:
        return config.weight_decay
    return config.pixel_encoder_weight_decay


def _clip(config: OptimizerConfig) -> optax.GradientTransformation:
    if not config.max_grad_norm:
        return optax.identity()
    if config.algorithm == "adamw":
        return optax.clip_by_global_norm(config.max_grad_norm)

    def clip(grads: optax.Updates, _: optax.Params | None) -> optax.Updates:
        factor = config.max_grad_norm / (optax.tree.norm(grads) + 1e-6)
        return optax.tree.scale(jnp.minimum(factor, 1.0), grads)

    return optax.stateless(clip)


def _scale_by_adam(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """Return gradients -> direction: `optax.scale_by_adam` for gradients that may be not finite.

    It selects the old or the new moments before it computes the direction, so that compilers fuse both. If it
    selected afterwards, a CPU would read and write all of them again; a branch makes a GPU copy them.
    """
    adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        is_finite: jax.typing.ArrayLike = True,
        **_extra: Any,
    ) -> tuple[Any, Any]:
        _, updated = adam.update(updates, state, params)
        state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), updated, state)
        mean = optax.tree.bias_correction(state.mu, config.beta1, state.count)
        square = optax.tree.bias_correction(state.nu, config.beta2, state.count)
        eps = config.eps
        if config.algorithm == "adamw_original":
            # Its sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps) is this formula with an eps that undergoes
            # the bias correction of sqrt(v) too.
            eps /= jnp.sqrt(1 - config.beta2**state.count)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mean, square), state

    return optax.GradientTransformationExtraArgs(adam.init, update)


def _scale_and_decay(
    config: OptimizerConfig, schedule: optax.Schedule, weight_decay: float
) -> optax.GradientTransformation:
    """Return Adam's direction -> update of one parameter group."""

    def mask(params: Mapping[str, object]) -> dict[str, bool]:
        return {name: is_decayed(name) for name in params}

    rate = optax.scale_by_learning_rate(schedule)
    if config.algorithm == "adamw":
        return optax.chain(optax.add_decayed_weights(weight_decay, mask), rate)
    return optax.chain(rate, optax.masked(_decay_updated_weights(schedule, weight_decay), mask))


def _decay_updated_weights(schedule: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Return update u of weight p -> u - c * (p + u) = (1 - c) * u - c * p, for c = learning rate * decay."""
    return optax.chain(
        optax.scale_by_schedule(lambda count: 1 - weight_decay * schedule(count)),
        optax.add_decayed_weights(lambda count: -weight_decay * schedule(count)),
    )
