"""Pretraining on the generated images and their captions, from random weights.

Command:   clipbert prepare demo_images --data-dir data/demo_images
           clipbert train demo/pretraining --data-dir data/demo_images --workdir runs/demo_pretraining
           clipbert evaluate runs/demo_pretraining --num-clips 1

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    hidden words 92 %, matching 90 %; guessing gets 33 % and 50 % (docs/results.md).
"""

from clipbert_jax.tasks.pretraining import Pretraining
from experiments.configs.bases import DEMO_IMAGES, demo
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return demo(Pretraining(num_sampled_tokens=0), DEMO_IMAGES, num_steps=1500)
