"""Counting on the generated images, from random weights: how many of these objects are there?

Command:   clipbert prepare demo_images --data-dir data/demo_images
           clipbert train demo/count --data-dir data/demo_images --workdir runs/demo_count
           clipbert evaluate runs/demo_count --num-clips 1

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    mean squared error 0.08, accuracy 92 %; the best constant gets 0.83 and 35 % (docs/results.md).
"""

import dataclasses

from clipbert_jax.tasks.count import CountQA
from experiments.configs.bases import DEMO_IMAGES, demo
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return demo(
        CountQA(max_count=3, num_questions=2),
        dataclasses.replace(DEMO_IMAGES, max_text_length=20),
        num_steps=1500,
    )
