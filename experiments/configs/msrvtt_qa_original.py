r"""MSRVTT-QA, open-ended questions, preset `original`.

Command:   clipbert prepare msrvtt_qa --videos MSRVTT.zip --data-dir data/msrvtt_qa \
               --vocab bert-base-uncased --train train_qa.json --validation val_qa.json \
               --test test_qa.json
           clipbert train msrvtt/qa_original --data-dir data/msrvtt_qa --workdir runs/msrvtt_qa_original \
               --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/msrvtt_qa_original --num-clips 1 8 16

Data:      158,581 questions to train on, 12,278 to validate and 72,821 to test, on the MSR-VTT videos; a
           data directory made by protocol 7k lacks two thirds of the test videos.

Hardware:  8 GPUs (not known of the original), each 16 videos with a question: 128 in an update. Hours: not
           measured.

Expect:    accuracy 37.4 % (paper).

Preset:    original: the original's released config with the quirks of its code, in bfloat16, not fp16.
           Differs from msrvtt/qa_corrected in data.sampling_rule, task.num_answers (1,500, and no less if the
           data have fewer), optimizer.algorithm and optimizer.schedule_rule.
"""

from experiments.configs import msrvtt_qa_corrected
from experiments.configs.bases import original
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return original(msrvtt_qa_corrected.experiment(), num_answers=1500)
