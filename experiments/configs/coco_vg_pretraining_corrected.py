r"""Image-text pretraining on COCO and Visual Genome captions, preset `corrected`.

Command:   clipbert prepare coco --videos coco_images --data-dir data/coco --vocab bert-base-uncased \
               --train captions_train2017.json --validation captions_val2017.json
           clipbert prepare visual_genome --videos visual_genome_images --data-dir data/visual_genome \
               --vocab bert-base-uncased --regions region_descriptions.json
           clipbert train coco_vg/pretraining_corrected --data-dir data/coco --workdir runs/pretraining \
               --data.mixture data/coco 1 data/visual_genome 1 --data.num-workers 8
           clipbert evaluate runs/pretraining --split validation --num-clips 1

Data:      591,753 COCO captions to train on and 25,014 to validate; 5.4 million descriptions of regions of
           108,077 Visual Genome images. Which images the original used is not known; it took turns
           between the two, an update of one, then of the other, where here each update has both.
           The original began with ResNet-50 grid features (grid-feat-vqa) and bert-base-uncased, and left
           stem and res2 as they were. Without --init.model all weights are random: then train these two as
           well, by --model.pixel-encoder.num-frozen-stages 0 --model.pixel-encoder.is-norm-trainable.

Hardware:  8 GPUs, each 32 images with 2 captions, in 2 accumulated parts: 512 images in an update. The
           original took about 4 days on 8 V100 (threads ClipBERT#36, #47); not measured here.

Expect:    no number is known of pretraining itself; what counts is what it does for the other experiments.

Preset:    corrected: settings of the released config, as the paper's own are not known where they differ, and
           our behaviour: words are learned from matching captions only, averaged over the masked ones, and
           never replaced by special tokens; standard AdamW, the mean of accumulated gradients. bfloat16,
           not fp16.
"""

import dataclasses

from clipbert_jax.tasks.pretraining import Pretraining
from experiments.configs.bases import full_size, image_data
from experiments.experiment import Experiment, InitConfig


def experiment() -> Experiment:
    """Return the experiment."""
    data = image_data("data/coco", max_text_length=30)
    return full_size(
        Pretraining(num_captions=2, num_sampled_tokens=100),
        dataclasses.replace(data, mixture=(("data/coco", 1.0), ("data/visual_genome", 1.0))),
        videos_per_gpu=32,
        num_accumulation_steps=2,
        num_epochs=40,
        init=InitConfig(),
    )
