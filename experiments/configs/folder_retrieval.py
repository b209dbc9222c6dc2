"""Text-to-video retrieval on your own folder of videos, with the small model and random initial weights.

Command:   clipbert prepare folder --videos DIR --annotations captions.csv --data-dir data/mine
           clipbert train folder/retrieval --data-dir data/mine --workdir runs/mine
           clipbert evaluate runs/mine --num-clips 8

Data:      captions.csv with the columns video and caption, one line or more for each file of DIR.

Hardware:  a laptop for some dozens of videos.

Expect:    a handful of videos is learned by heart (R@1 100 % on the videos trained on).
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
        model=ClipBertConfig.tiny(vocab_size=0),
        task=Retrieval(num_negatives=3),
        data=DataConfig(
            data_dir="data/folder", num_clips=4, num_frames=2, fps=2.0, size=96, max_text_length=32
        ),
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(num_steps=200, batch_size=4, log_every_steps=10, save_every_steps=100),
    )
