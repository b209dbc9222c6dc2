r"""MSR-VTT text-to-video retrieval, preset `original`.

Command:   clipbert prepare msrvtt --videos MSRVTT.zip --data-dir data/msrvtt --vocab bert-base-uncased \
               --videodatainfo MSRVTT_data.json --test-csv MSRVTT_JSFUSION_test.csv
           clipbert train msrvtt/retrieval_original --data-dir data/msrvtt \
               --workdir runs/msrvtt_retrieval_original --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/msrvtt_retrieval_original --num-clips 1 8 16

Data:      protocol 7k: 7,010 videos with 20 captions each to train on, 1,000 test videos with one (1k-A),
           none to validate, so that the last checkpoint counts.

Hardware:  8 GPUs, each 16 videos: 128 in an update. The original took about 12 hours on 8 V100 (threads
           ClipBERT#36, #47); not measured here.

Expect:    R@1 / 5 / 10 and median rank: 22.0 / 46.8 / 59.9 / 6 (paper); a user's rerun of the original 21.0
           / 45.3 / 57.2 / 7 (thread ClipBERT#26). With how many test clips is not known.

Preset:    original: the original's released config with the quirks of its code, in bfloat16, not fp16.
           Differs from msrvtt/retrieval_corrected in data.sampling_rule, task.ranking_rule,
           optimizer.algorithm and optimizer.schedule_rule.
"""

from experiments.configs import msrvtt_retrieval_corrected
from experiments.configs.bases import original
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return original(msrvtt_retrieval_corrected.experiment())
