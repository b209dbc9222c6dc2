r"""MSVD-QA, open-ended questions. Not in the paper; the settings of MSRVTT-QA with shorter questions.

Command:   clipbert prepare msvd_qa --videos YouTubeClips.tar --data-dir data/msvd_qa \
               --vocab bert-base-uncased --youtube-mapping youtube_mapping.txt --train train_qa.json \
               --validation val_qa.json --test test_qa.json
           clipbert train msvd/qa --data-dir data/msvd_qa --workdir runs/msvd_qa \
               --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/msvd_qa --num-clips 1 8 16

Data:      30,933 questions to train on, 6,415 to validate and 13,157 to test, on 1,970 clips.

Hardware:  8 GPUs, each 16 videos: 128 in an update. Hours: not measured.

Expect:    not measured; results.json has beside each number what the best constant answer gets.
"""

from experiments.configs.bases import video_qa
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return video_qa("data/msvd_qa", num_epochs=10, max_text_length=30)
