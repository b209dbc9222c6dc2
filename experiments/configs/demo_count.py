"""Counting on the synthetic images, from nothing: how many of these objects are there?

Command:   clipbert prepare demo_images --data-dir data/demo_images
           clipbert train demo/count --data-dir data/demo_images --workdir runs/demo_count
           clipbert evaluate runs/demo_count --num-clips 1

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    mean squared error 0.08, accuracy 92 %; the best constant gets 0.83 and 35 % (docs/results.md).
"""

import dataclasses

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.training.train_config import TrainConfig
from experiments.configs.bases import DEMO_IMAGES, SMALL_OPTIMIZER
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return Experiment(
        model=ClipBertConfig.tiny(),
        task=CountQA(max_count=3, num_questions=2),
        data=dataclasses.replace(DEMO_IMAGES, max_text_length=20),
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(num_steps=1500, batch_size=32, log_every_steps=50, save_every_steps=500),
    )
