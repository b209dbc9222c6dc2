"""The optimizer: AdamW with parameter groups, warm-up and linear decay, global-norm clipping.

Follows `src/optimization/utils.py` of the original in its groups (pixel encoder and transformer
learning rates, no weight decay for biases and norms); differences are in `docs/fidelity.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule. Learning rates are peaks, reached at the end of the warm-up."""

    transformer_learning_rate: float = 5e-5
    """Text encoder, cross-modal fusion and head."""
    pixel_encoder_learning_rate: float = 5e-5
    """Residual stages, grid projection."""
    weight_decay: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    warmup_share: float = 0.1
    """Share of all steps in which the learning rate rises linearly from 0."""
    max_grad_norm: float = 5.0
    """Gradients are scaled down to this global norm; 0 turns it off."""


def learning_rate_schedule(peak: float, *, num_steps: int, warmup_share: float) -> optax.Schedule:
    """Return update count (0 for the first update) -> learning rate: linear up, then linear to 0.

    As in the original the first update uses step 1, so that it is not wasted at rate 0.
    """
    num_warmup_steps = int(warmup_share * num_steps)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count, jnp.float32) + 1
        rising = step / max(num_warmup_steps, 1)
        falling = (num_steps - step) / max(num_steps - num_warmup_steps, 1)
        return peak * jnp.clip(jnp.where(step <= num_warmup_steps, rising, falling), 0.0, 1.0)

    return schedule


def parameter_group(name: str) -> str:
    """Return the learning-rate group of a parameter from its flat name."""
    return "pixel_encoder" if name.startswith("pixel_encoder/") else "transformer"


def is_decayed(name: str) -> bool:
    """Return whether weight decay applies: to all but biases and the scales of norms."""
    return not name.endswith(("bias", "scale"))


def make_schedules(config: OptimizerConfig, num_steps: int) -> dict[str, optax.Schedule]:
    """Return the learning-rate schedule of each parameter group."""
    peaks = {
        "pixel_encoder": config.pixel_encoder_learning_rate,
        "transformer": config.transformer_learning_rate,
    }
    return {
        group: learning_rate_schedule(peak, num_steps=num_steps, warmup_share=config.warmup_share)
        for group, peak in peaks.items()
    }


def make_optimizer(config: OptimizerConfig, *, num_steps: int) -> optax.GradientTransformation:
    """Build the transformation for parameters kept as a flat dict `name -> array`."""

    def decay_mask(params: Mapping[str, object]) -> dict[str, bool]:
        return {name: is_decayed(name) for name in params}

    def groups(params: Mapping[str, object]) -> dict[str, str]:
        return {name: parameter_group(name) for name in params}

    rates: dict[Hashable, optax.GradientTransformation] = {
        group: optax.scale_by_learning_rate(schedule)
        for group, schedule in make_schedules(config, num_steps).items()
    }
    clip = optax.clip_by_global_norm(config.max_grad_norm) if config.max_grad_norm else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        optax.partition(rates, groups),
    )
