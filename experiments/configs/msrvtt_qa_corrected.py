r"""MSRVTT-QA, open-ended questions, preset `corrected`.

Command:   clipbert prepare msrvtt_qa --videos MSRVTT.zip --data-dir data/msrvtt_qa \
               --vocab bert-base-uncased --train train_qa.json --validation val_qa.json \
               --test test_qa.json
           clipbert train msrvtt/qa_corrected --data-dir data/msrvtt_qa --workdir runs/msrvtt_qa_corrected \
               --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/msrvtt_qa_corrected --num-clips 1 8 16

Data:      158,581 questions to train on, 12,278 to validate and 72,821 to test, on the MSR-VTT videos; a
           data directory made by protocol 7k lacks two thirds of the test videos.

Hardware:  8 GPUs (not known of the original), each 16 videos with a question: 128 in an update. Hours: not
           measured.

Expect:    accuracy 37.4 % (paper).

Preset:    corrected: settings of the released config, as the paper's own are not known where they differ, and
           our behaviour: clips over the whole video, standard AdamW, as many answers as the data have.
           bfloat16, not fp16.
"""

from experiments.configs.bases import video_qa
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return video_qa("data/msrvtt_qa", num_epochs=10)
