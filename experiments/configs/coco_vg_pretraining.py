r"""Image-text pretraining on COCO and Visual Genome captions.

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
"""

import dataclasses

from clipbert_jax.tasks.pretraining import Pretraining
from experiments.configs.bases import as_original, full_size, image_data
from experiments.experiment import Experiment, InitConfig


def corrected() -> Experiment:
    """Return the experiment with this project's corrections.

    Preset:    corrected: the original's released settings, with words learned from matching captions only,
               averaged over the masked ones and never replaced by special tokens; with standard AdamW and
               the mean of accumulated gradients. bfloat16, not fp16.
    """
    data = image_data("data/coco", max_text_length=30)
    return full_size(
        Pretraining(num_captions=2, num_sampled_tokens=100),
        dataclasses.replace(data, mixture=(("data/coco", 1.0), ("data/visual_genome", 1.0))),
        videos_per_gpu=32,
        num_accumulation_steps=2,
        num_epochs=40,
        init=InitConfig(),
    )


def original() -> Experiment:
    """Return the experiment as the original's code has it.

    Preset:    original: the original's released settings and the quirks of its code. bfloat16, not fp16.
               Differs from coco_vg/pretraining_corrected in data.sampling_rule (which does nothing to
               images), task.masked_lm_on, task.masked_lm_average, task.masking.may_replace_by_special,
               optimizer.algorithm, optimizer.schedule_rule and train.accumulation.
    """
    return as_original(corrected())
