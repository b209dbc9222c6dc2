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

    `log_sum_exp` is the log of the mean, so that nothing grows with the number of clips. The original does
    not divide; cross-entropy and rankings do not see the difference, a shift of all logits by log k.
    Cross-entropy of logits pooled so is the original's training loss, logsumexp over clips and answers minus
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
