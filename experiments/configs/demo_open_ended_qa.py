"""Open-ended questions on the synthetic corpus, from nothing: which object appears besides two others?

Command:   clipbert prepare demo --data-dir data/demo
           clipbert train demo/open_ended_qa --data-dir data/demo --workdir runs/demo_open_ended_qa
           clipbert evaluate runs/demo_open_ended_qa --num-clips 1 2 4 8

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    accuracy 80 % with 8 clips, 45 % with one; guessing gets 15 % (docs/results.md).
"""

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.training.train_config import TrainConfig
from experiments.configs.bases import DEMO_VIDEOS, SMALL_OPTIMIZER
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return Experiment(
        model=ClipBertConfig.tiny(),
        task=OpenEndedQA(),
        data=DEMO_VIDEOS,
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(num_steps=600, batch_size=32, log_every_steps=20, save_every_steps=200),
    )
