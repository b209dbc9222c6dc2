"""ProbeScore: the one number of a prediction that is probed.

All that probing says is about a `ProbeScore`: scores of clips -> a number for each text after the consensus.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from clipbert_jax.tasks.any_task import AnyTask
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.task import MatchTask

Unit = Literal["log_odds", "logit", "number"]
"""`log_odds`: its sigmoid is the probability. `logit`: it says something only beside those of other texts."""


@dataclasses.dataclass(frozen=True)
class ProbeScore:
    """That a text matches, that an answer is right, how much an option has for it, or what is counted."""

    task: AnyTask
    answer: int = 0
    """For tasks with an answer vocabulary: the answer's place in it."""
    num_answers: int = 0
    """Of the vocabulary; further outputs of the head mean nothing."""

    @property
    def unit(self) -> Unit:
        """What the number means."""
        match self.task:
            case CountQA():
                return "number"
            case MultipleChoiceQA():
                return "logit"
        return "log_odds"

    def __call__(self, scores: Float[Array, "b k n a"]) -> Float[Array, "b n"]:
        """Pool the clips and return the number."""
        match self.task:
            case OpenEndedQA():
                logits = self.task.answer_logits(scores)[..., : self.num_answers]
                is_other = jnp.arange(logits.shape[-1]) != self.answer
                others = jax.nn.logsumexp(logits, axis=-1, where=is_other)
                return logits[..., self.answer] - others
            case ImageQA():
                return self.task.answer_logits(scores)[..., self.answer]
            case CountQA():
                return self.task.counts(scores)
            case MultipleChoiceQA():
                return self.task.choice_logits(scores)
            case MatchTask():
                return self.task.match_logit(scores)
        raise NotImplementedError(f"nothing to probe in task {type(self.task).__name__}")

    def of_scores(self, scores: Float[np.ndarray, "m k a"]) -> Float[np.ndarray, " m"]:
        """Return the number of each of some videos, or versions of one, from the scores of its clips."""
        return np.asarray(self(jnp.asarray(scores)[:, :, None]))[:, 0]

    def of_clips(self, scores: Float[np.ndarray, "k a"]) -> Float[np.ndarray, " k"]:
        """Return what each clip alone says."""
        return self.of_scores(scores[:, None])

    def probability(self, number: float) -> float | None:
        """Return the probability that a number stands for, if it does."""
        return float(jax.nn.sigmoid(number)) if self.unit == "log_odds" else None
