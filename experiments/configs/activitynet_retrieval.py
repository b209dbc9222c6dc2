r"""ActivityNet Captions paragraph-to-video retrieval.

Command:   clipbert prepare activitynet --videos activitynet_videos --data-dir data/activitynet \
               --vocab bert-base-uncased --train train.json --val-1 val_1.json
           clipbert train activitynet/retrieval_corrected --data-dir data/activitynet \
               --workdir runs/activitynet_retrieval_corrected --init.model runs/pretraining \
               --data.num-workers 8
           clipbert evaluate runs/activitynet_retrieval_corrected --num-clips 4

Data:      10,009 videos to train on and 4,917 of val_1 to test, with the captions of each as one paragraph.
           None to validate: every paragraph meets every video, which is too many to do often.

Hardware:  8 GPUs (not known of the original), each 16 videos, in 2 accumulated parts: 256 in an update.
           Hours: not measured; the evaluation of 24 million pairs alone is long.

Expect:    R@1 / 5: 21.3 / 49.0 (paper).
"""

from clipbert_jax.tasks.retrieval import Retrieval
from data_pipelines.data_config import DataConfig
from experiments.configs.bases import as_original, full_size
from experiments.experiment import Experiment


def corrected() -> Experiment:
    """Return the experiment with this project's corrections.

    Preset:    corrected: the original's released settings, with clips over the whole video, ranking without
               rounding, standard AdamW and the mean of accumulated gradients. bfloat16, not fp16.
    """
    return full_size(
        Retrieval(consensus="log_sum_exp"),
        DataConfig(
            data_dir="data/activitynet", num_clips=4, num_frames=2, fps=1.0, size=448, max_text_length=100
        ),
        videos_per_gpu=16,
        num_accumulation_steps=2,
        num_epochs=80,
        num_validations=0,
    )


def original() -> Experiment:
    """Return the experiment as the original's code has it.

    Preset:    original: the original's released settings and the quirks of its code. bfloat16, not fp16.
               Differs from activitynet/retrieval_corrected in data.sampling_rule, task.ranking_rule,
               optimizer.algorithm, optimizer.schedule_rule and train.accumulation.
    """
    return as_original(corrected())
