"""Questions with soft answers on the generated images as in VQA v2, from random weights.

Command:   clipbert prepare demo_images --data-dir data/demo_images
           clipbert train demo/image_qa --data-dir data/demo_images --workdir runs/demo_image_qa
           clipbert evaluate runs/demo_image_qa --num-clips 1

Hardware:  a laptop; some minutes on 2 CPU cores.

Expect:    accuracy 93 %; the best constant answer gets 15 % (docs/results.md).
"""

from clipbert_jax.tasks.image_qa import ImageQA
from experiments.configs.bases import DEMO_IMAGES, demo
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return demo(ImageQA(), DEMO_IMAGES, num_steps=600)
