"""Multiple choice on the generated videos, from random weights: which of five objects appears?

Command:   clipbert prepare demo --data-dir data/demo
           clipbert train demo/multiple_choice --data-dir data/demo --workdir runs/demo_multiple_choice
           clipbert evaluate runs/demo_multiple_choice --num-clips 1 2 4 8

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    accuracy 99 % with 8 clips, 46 % with one; guessing gets 20 % (docs/results.md).
"""

from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from experiments.configs.bases import DEMO_VIDEOS, demo
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return demo(MultipleChoiceQA(), DEMO_VIDEOS, num_steps=600)
