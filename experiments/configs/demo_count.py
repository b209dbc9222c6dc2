"""Counting on the embedded corpus, from nothing: how many of these objects appear?

Command:   clipbert prepare demo --data-dir data/demo
           clipbert train demo/count --data-dir data/demo --workdir runs/demo_count
           clipbert evaluate runs/demo_count --num-clips 1 2 4 8

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    see docs/results.md.
"""

import dataclasses

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.training.loop import TrainConfig
from experiments.configs.bases import DEMO_VIDEOS, SMALL_OPTIMIZER
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return Experiment(
        model=ClipBertConfig.tiny(),
        task=CountQA(max_count=3),
        data=dataclasses.replace(DEMO_VIDEOS, max_text_length=28),
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(num_steps=600, batch_size=32, log_every_steps=20, save_every_steps=200),
    )
