r"""ActivityNet Captions paragraph-to-video retrieval, preset `original`.

Command:   clipbert prepare activitynet --videos activitynet_videos --data-dir data/activitynet \
               --vocab bert-base-uncased --train train.json --val-1 val_1.json
           clipbert train activitynet/retrieval_original --data-dir data/activitynet \
               --workdir runs/activitynet_retrieval_original --init.model runs/pretraining \
               --data.num-workers 8
           clipbert evaluate runs/activitynet_retrieval_original --num-clips 4

Data:      10,009 videos to train on and 4,917 of val_1 to test, with the captions of each as one paragraph.
           None to validate: every paragraph meets every video, which is too many to do often.

Hardware:  8 GPUs (not known of the original), each 16 videos, in 2 accumulated parts: 256 in an update.
           Hours: not measured; the evaluation of 24 million pairs alone is long.

Expect:    R@1 / 5: 21.3 / 49.0 (paper).

Preset:    original: the original's released config with the quirks of its code, in bfloat16, not fp16.
           Differs from activitynet/retrieval_corrected in data.sampling_rule, task.ranking_rule,
           optimizer.algorithm, optimizer.schedule_rule and train.accumulation.
"""

from experiments.configs import activitynet_retrieval_corrected
from experiments.configs.bases import original
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return original(activitynet_retrieval_corrected.experiment())
