"""Multiple choice on the synthetic corpus, from nothing: which of five objects appears?

Command:   clipbert prepare demo --data-dir data/demo
           clipbert train demo/multiple_choice --data-dir data/demo --workdir runs/demo_multiple_choice
           clipbert evaluate runs/demo_multiple_choice --num-clips 1 2 4 8

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    accuracy 99 % with 8 clips, 46 % with one; guessing gets 20 % (docs/results.md).
"""

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.training.train_config import TrainConfig
from experiments.configs.bases import DEMO_VIDEOS, SMALL_OPTIMIZER
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return Experiment(
        model=ClipBertConfig.tiny(),
        task=MultipleChoiceQA(),
        data=DEMO_VIDEOS,
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(num_steps=600, batch_size=32, log_every_steps=20, save_every_steps=200),
    )
