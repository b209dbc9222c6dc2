r"""TGIF-QA transition: what comes before or after? Five options, preset `corrected`.

Command:   clipbert prepare tgif_qa --task transition --videos gifs --data-dir data/tgif_transition \
               --vocab bert-base-uncased --train Train_transition_question.csv \
               --test Test_transition_question.csv
           clipbert train tgif/transition_corrected --data-dir data/tgif_transition \
               --workdir runs/tgif_transition_corrected --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/tgif_transition_corrected --num-clips 1 16

Data:      52,704 questions in the train file and 6,232 to test. A tenth of the GIFs of the train file is
           set aside to validate; how the original chose is not known. To train on all, prepare with
           --validation-percent 0 and train with --train.num-validations 0.

Hardware:  8 GPUs (thread ClipBERT#12), each 32 GIFs: 256 in an update. Hours: not measured.

Expect:    accuracy 87.8 % (memory: unverified).

Preset:    corrected: 448 pixels, batch 32 (taken to be that of one GPU) and learning rate 1e-4 (thread
           ClipBERT#12); all else from the released config, and our behaviour: clips over the whole video,
           standard AdamW. bfloat16, not fp16.
"""

from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from experiments.configs.bases import tgif_qa
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return tgif_qa(
        MultipleChoiceQA(),
        "data/tgif_transition",
        size=448,
        videos_per_gpu=32,
        learning_rate=1e-4,
    )
