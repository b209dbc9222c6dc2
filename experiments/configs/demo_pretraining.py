"""Pretraining on the synthetic images and their captions, from nothing.

Command:   clipbert prepare demo_images --data-dir data/demo_images
           clipbert train demo/pretraining --data-dir data/demo_images --workdir runs/demo_pretraining
           clipbert evaluate runs/demo_pretraining --num-clips 1

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    hidden words 92 %, matching 90 %; guessing gets 33 % and 50 % (docs/results.md).
"""

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.training.train_config import TrainConfig
from experiments.configs.bases import DEMO_IMAGES, SMALL_OPTIMIZER
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return Experiment(
        model=ClipBertConfig.tiny(),
        task=Pretraining(num_sampled_tokens=0),
        data=DEMO_IMAGES,
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(num_steps=1500, batch_size=32, log_every_steps=50, save_every_steps=500),
    )
