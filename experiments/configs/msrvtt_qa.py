r"""MSRVTT-QA, open-ended questions.

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
"""

from experiments.configs.bases import as_original, video_qa
from experiments.experiment import Experiment


def corrected() -> Experiment:
    """Return the experiment with this project's corrections.

    Preset:    corrected: the original's released settings, with clips over the whole video, standard AdamW
               and as many answers as the data have. bfloat16, not fp16.
    """
    return video_qa("data/msrvtt_qa", num_epochs=10)


def original() -> Experiment:
    """Return the experiment as the original's code has it.

    Preset:    original: the original's released settings and the quirks of its code. bfloat16, not fp16.
               Differs from msrvtt/qa_corrected in data.sampling_rule, task.num_answers (1,500, even if the
               data have fewer), optimizer.algorithm and optimizer.schedule_rule.
    """
    return as_original(corrected(), num_answers=1500)
