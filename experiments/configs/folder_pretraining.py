r"""Video-text pretraining on your own folder of captioned videos, with the full-size model.

Command:   clipbert prepare folder --videos DIR --annotations captions.csv --data-dir data/mine \
               --vocab bert-base-uncased
           clipbert train folder/pretraining --data-dir data/mine --workdir runs/mine_pretraining \
               --data.num-workers 8
           clipbert evaluate runs/mine_pretraining --num-clips 1 4
           clipbert evaluate runs/mine_pretraining --task retrieval --num-clips 1 4

Data:      many videos with a caption each, such as WebVid's: a csv with the columns video and caption. A
           tenth of them validates, a tenth tests.
           --init.model runs/pretraining goes on from images, --data.mixture data/mine 1 data/coco 1 learns
           from both.

Hardware:  8 GPUs, each 16 videos: 128 in an update. Hours: not measured.

Expect:    not measured; results.json has beside each number what guessing gets.
"""

import dataclasses

from clipbert_jax.config import PixelEncoderConfig
from clipbert_jax.tasks.pretraining import Pretraining
from data_pipelines.data_config import DataConfig
from experiments.configs.bases import full_size
from experiments.experiment import Experiment, InitConfig


def experiment() -> Experiment:
    """Return the experiment."""
    experiment = full_size(
        # All 49 visual tokens of 448 pixels.
        Pretraining(num_captions=1, num_sampled_tokens=0),
        DataConfig(data_dir="data/mine", num_clips=2, num_frames=2, fps=2.0, size=448, max_text_length=30),
        videos_per_gpu=16,
        num_epochs=10,
        init=InitConfig(),
    )
    # From random weights, all stages and norms of the pixel encoder are trained.
    pixel_encoder = PixelEncoderConfig(num_frozen_stages=0, is_norm_trainable=True)
    return dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, pixel_encoder=pixel_encoder)
    )
