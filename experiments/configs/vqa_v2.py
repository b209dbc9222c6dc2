r"""VQA v2 with Visual Genome questions.

Command:   clipbert prepare vqa --videos images --data-dir data/vqa --vocab bert-base-uncased \
               --train v2_OpenEnded_mscoco_train2014_questions.json v2_mscoco_train2014_annotations.json \
               --validation v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json \
               --test v2_OpenEnded_mscoco_test-dev2015_questions.json \
               --visual-genome question_answers.json
           clipbert train vqa/v2_corrected --data-dir data/vqa --workdir runs/vqa_v2_corrected \
               --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/vqa_v2_corrected --split validation --num-clips 1
           clipbert evaluate runs/vqa_v2_corrected --num-clips 1

Data:      443,757 questions of train2014 and those of Visual Genome to train on, 214,354 of val2014 to
           validate; answers of test-dev are withheld, so that its evaluation writes what the VQA server
           takes. The original's file names say that it trained on val2014 too (`trainval`), which here
           validates. Images of val2014 are among those of Visual Genome, and in pretraining by coco_vg.

Hardware:  8 GPUs (not known of the original), each 32 images with 2 questions: 256 images in an update.
           Hours: not measured.

Expect:    69.1 % on test-dev (memory: unverified).
"""

from clipbert_jax.tasks.image_qa import ImageQA
from experiments.configs.bases import as_original, full_size, image_data
from experiments.experiment import Experiment


def corrected() -> Experiment:
    """Return the experiment with this project's corrections.

    Preset:    corrected: the original's released settings, with standard AdamW and as many answers as the
               data have. bfloat16, not fp16.
    """
    return full_size(
        ImageQA(num_questions=2),
        image_data("data/vqa", max_text_length=20),
        videos_per_gpu=32,
        num_epochs=5,
        num_validations=10,
        learning_rate=1e-4,
        max_grad_norm=2.0,
    )


def original() -> Experiment:
    """Return the experiment as the original's code has it.

    Preset:    original: the original's released settings and the quirks of its code. bfloat16, not fp16.
               Differs from vqa/v2_corrected in data.sampling_rule (which does nothing to images),
               task.num_answers (3,129), optimizer.algorithm and optimizer.schedule_rule.
    """
    return as_original(corrected(), num_answers=3129)
