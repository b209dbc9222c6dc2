"""Consensus: the scores of a video's clips -> one row of logits.

Between the model, which sees every clip alone, and the task's loss or prediction. Paper section 3,
"score aggregation"; the paper's default is the mean, its released configs use log-sum-exp.
"""

from __future__ import annotations

from typing import Literal, assert_never

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Consensus = Literal["mean", "max", "log_sum_exp"]


def pool_clips(scores: Float[Array, "b k n a"], consensus: Consensus) -> Float[Array, "b n a"]:
    """Pool the clips' scores.

    As in the original, `log_sum_exp` is not divided by the number of clips: one clip more shifts all
    logits alike, which cross-entropy and rankings do not see. Cross-entropy of logits pooled so is the
    original's training loss, logsumexp over clips and answers minus logsumexp over clips at the label.
    """
    match consensus:
        case "mean":
            return jnp.mean(scores, axis=1)
        case "max":
            return jnp.max(scores, axis=1)
        case "log_sum_exp":
            return jax.nn.logsumexp(scores, axis=1)
        case _:
            assert_never(consensus)
