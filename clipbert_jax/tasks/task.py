"""What every task offers to the train step: the head it needs, its losses, and which of them count.

A task is a frozen dataclass of settings. After the model, which gives scores of every clip; before the train
step, which takes weighted means of the losses and knows no task by name.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.consensus import Consensus
from clipbert_jax.models.heads import HeadConfig

Losses = dict[str, Float[Array, "..."]]
"""By name. The step minimises the sum, over the names, of the weighted means."""


@runtime_checkable
class Task(Protocol):
    """A task that can be trained."""

    @property
    def consensus(self) -> Consensus:
        """How the scores of the clips become one."""
        ...

    @property
    def head(self) -> HeadConfig:
        """The head that the task needs."""
        ...

    @property
    def num_sampled_tokens(self) -> int:
        """How many visual tokens training keeps, at random; 0 keeps all."""
        ...

    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return the unreduced losses."""
        ...

    def loss_weights(self, batch: Batch) -> Losses:
        """Return the weights of the losses, of the same names and shapes: 0 where there is nothing to learn.

        From the batch alone, so that the parts of an accumulated batch can be weighed before they are seen.
        """
        ...


@runtime_checkable
class MatchTask(Protocol):
    """A task whose scores say how well a text matches a video."""

    def match_logit(self, scores: jax.Array) -> jax.Array:
        """Pool scores [b k n a] over the clips and return match logits [b n]."""
        ...
