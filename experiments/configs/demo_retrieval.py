"""Text-to-video retrieval on the generated videos, from random weights.

Command:   clipbert prepare demo --data-dir data/demo
           clipbert train demo/retrieval --data-dir data/demo --workdir runs/demo
           clipbert evaluate runs/demo --num-clips 1 2 4 8

Hardware:  a laptop; about 6 minutes on 2 CPU cores.

Expect:    R@1 of 100 % with 4 or 8 clips (one run, seed 0), below 10 % with one (docs/results.md).

At 96 pixels, twice what the other demos have: a cell of the 6 x 6 grid sees half of the picture, so that maps
of attention can tell one place from another.
"""

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.train_config import TrainConfig
from data_pipelines.data_config import DataConfig
from experiments.configs.bases import SMALL_OPTIMIZER
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return Experiment(
        model=ClipBertConfig.tiny(),
        task=Retrieval(num_negatives=5),
        data=DataConfig(
            data_dir="data/demo", num_clips=4, num_frames=1, fps=2.0, size=96, max_text_length=12
        ),
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(
            num_steps=600, batch_size=32, log_every_steps=20, save_every_steps=200, num_kept_checkpoints=3
        ),
    )
