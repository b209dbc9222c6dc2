r"""DiDeMo paragraph-to-video retrieval.

Command:   clipbert prepare didemo --videos didemo_videos --data-dir data/didemo --vocab bert-base-uncased \
               --train train_data.json --validation val_data.json --test test_data.json
           clipbert train didemo/retrieval_corrected --data-dir data/didemo \
               --workdir runs/didemo_retrieval_corrected --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/didemo_retrieval_corrected --num-clips 1 8 16

Data:      8,395 videos to train on, 1,065 to validate and 1,004 to test, with the descriptions of each as
           one paragraph.

Hardware:  8 GPUs (not known of the original), each 8 videos, in 4 accumulated parts: 256 in an update.
           Hours: not measured.

Expect:    R@1 / 5 / 10 and median rank: 20.4 / 48.0 / 60.8 / 6 (memory: unverified).
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
        DataConfig(data_dir="data/didemo", num_clips=8, num_frames=2, fps=2.0, size=448, max_text_length=100),
        videos_per_gpu=8,
        num_accumulation_steps=4,
        num_epochs=20,
        num_validations=10,
    )


def original() -> Experiment:
    """Return the experiment as the original's code has it.

    Preset:    original: the original's released settings and the quirks of its code. bfloat16, not fp16.
               Differs from didemo/retrieval_corrected in data.sampling_rule, task.ranking_rule,
               optimizer.algorithm, optimizer.schedule_rule and train.accumulation.
    """
    return as_original(corrected())
