"""Open-ended questions on the generated videos, from random weights: which object appears besides two others?

Command:   clipbert prepare demo --data-dir data/demo
           clipbert train demo/open_ended_qa --data-dir data/demo --workdir runs/demo_open_ended_qa
           clipbert evaluate runs/demo_open_ended_qa --num-clips 1 2 4 8

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    accuracy 80 % with 8 clips, 45 % with one; guessing gets 15 % (docs/results.md).
"""

from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from experiments.configs.bases import DEMO_VIDEOS, demo
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return demo(OpenEndedQA(), DEMO_VIDEOS, num_steps=600)
