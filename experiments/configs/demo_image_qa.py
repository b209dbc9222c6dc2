"""Questions with soft answers on the synthetic images, from nothing, as VQA v2.

Command:   clipbert prepare demo_images --data-dir data/demo_images
           clipbert train demo/image_qa --data-dir data/demo_images --workdir runs/demo_image_qa
           clipbert evaluate runs/demo_image_qa --num-clips 1

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    accuracy 93 %; the best constant answer gets 15 % (docs/results.md).
"""

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.training.train_config import TrainConfig
from experiments.configs.bases import DEMO_IMAGES, SMALL_OPTIMIZER
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return Experiment(
        model=ClipBertConfig.tiny(),
        task=ImageQA(),
        data=DEMO_IMAGES,
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(num_steps=600, batch_size=32, log_every_steps=20, save_every_steps=200),
    )
