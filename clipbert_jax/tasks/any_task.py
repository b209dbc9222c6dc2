"""All tasks, and what configs and results call them."""

from __future__ import annotations

from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.retrieval import Retrieval

TASK_NAMES = {
    Retrieval: "retrieval",
    MultipleChoiceQA: "multiple_choice",
    OpenEndedQA: "open_ended_qa",
    CountQA: "count",
    ImageQA: "image_qa",
    Pretraining: "pretraining",
}
"""Task -> its name in config.json and in results."""

AnyTask = Retrieval | MultipleChoiceQA | OpenEndedQA | CountQA | ImageQA | Pretraining
