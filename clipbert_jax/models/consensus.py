"""Consensus: the scores of a video's clips -> one row of logits.

Between the model, which sees every clip alone, and the task's loss or prediction. Paper section 3,
"score aggregation"; the paper's default is the mean, its released configs use log-sum-exp.
"""

from __future__ import annotations

import math
from typing import Literal, assert_never

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Consensus = Literal["mean", "max", "log_sum_exp"]


def pool_clips(scores: Float[Array, "b k ..."], consensus: Consensus) -> Float[Array, "b ..."]:
    """Pool the clips' scores.

    `log_sum_exp` is the log of the mean, so that it does not grow with the number of clips. The original
    takes the log of the sum. That shifts all logits by log k, which changes no cross-entropy and no ranking.
    Cross-entropy of such logits is the original's training loss, logsumexp over clips and answers minus
    logsumexp over clips at the label.
    """
    match consensus:
        case "mean":
            return jnp.mean(scores, axis=1)
        case "max":
            return jnp.max(scores, axis=1)
        case "log_sum_exp":
            return jax.nn.logsumexp(scores, axis=1) - math.log(scores.shape[1])
        case _:
            assert_never(consensus)
