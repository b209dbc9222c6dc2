r"""ActivityNet-QA, open-ended questions. Not in the paper; the settings of MSRVTT-QA with slower clips.

Command:   clipbert prepare activitynet_qa --videos activitynet_videos --data-dir data/activitynet_qa \
               --vocab bert-base-uncased --train train_q.json train_a.json \
               --validation val_q.json val_a.json --test test_q.json test_a.json
           clipbert train activitynet/qa --data-dir data/activitynet_qa --workdir runs/activitynet_qa \
               --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/activitynet_qa --num-clips 1 8 16

Data:      32,000 questions to train on, 18,000 to validate and 8,000 to test, on 5,800 videos.

Hardware:  8 GPUs, each 16 videos: 128 in an update. Hours: not measured.

Expect:    not measured; results.json has beside each number what the best constant answer gets.
"""

from experiments.configs.bases import video_qa
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return video_qa("data/activitynet_qa", num_epochs=10, fps=1.0, max_text_length=30)
