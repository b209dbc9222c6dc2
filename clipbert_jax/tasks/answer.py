"""The answer of a task, as arrays."""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.task import MatchTask, Task


def answer(
    task: Task, scores: Float[Array, "b k n a"], is_text: Bool[Array, "b n"], num_answers: int
) -> Float[Array, "b n *answers"]:
    """Pool the clips and return what the task predicts, in probabilities where it has such.

    Matching: that each text matches [b n]. Multiple choice: of each option among those of its video [b n];
    one that is no text has 0. Answers: of each answer [b n a], exclusive ones or each for itself. Counting:
    the number [b n], neither rounded nor limited.
    """
    match task:
        case MultipleChoiceQA():
            return jax.nn.softmax(task.choice_logits(scores), axis=-1, where=is_text)
        case OpenEndedQA():
            return jax.nn.softmax(task.answer_logits(scores)[..., :num_answers], axis=-1)
        case ImageQA():
            return jax.nn.sigmoid(task.answer_logits(scores)[..., :num_answers])
        case CountQA():
            return task.counts(scores)
        case MatchTask():
            return jax.nn.sigmoid(task.match_logit(scores))
    raise NotImplementedError(f"no prediction for task {type(task).__name__}")
