r"""DiDeMo paragraph-to-video retrieval, preset `original`.

Command:   clipbert prepare didemo --videos didemo_videos --data-dir data/didemo --vocab bert-base-uncased \
               --train train_data.json --validation val_data.json --test test_data.json
           clipbert train didemo/retrieval_original --data-dir data/didemo \
               --workdir runs/didemo_retrieval_original --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/didemo_retrieval_original --num-clips 1 8 16

Data:      8,395 videos to train on, 1,065 to validate and 1,004 to test, with the descriptions of each as
           one paragraph.

Hardware:  8 GPUs (not known of the original), each 8 videos, in 4 accumulated parts: 256 in an update.
           Hours: not measured.

Expect:    R@1 / 5 / 10 and median rank: 20.4 / 48.0 / 60.8 / 6 (memory: unverified).

Preset:    original: the original's released config with the quirks of its code, in bfloat16, not fp16.
           Differs from didemo/retrieval_corrected in data.sampling_rule, task.ranking_rule,
           optimizer.algorithm, optimizer.schedule_rule and train.accumulation.
"""

from experiments.configs import didemo_retrieval_corrected
from experiments.configs.bases import original
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return original(didemo_retrieval_corrected.experiment())
