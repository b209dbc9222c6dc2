r"""TGIF-QA count: how many times is it repeated? Not in the paper; the settings are this project's.

Command:   clipbert prepare tgif_qa --task count --videos gifs --data-dir data/tgif_count \
               --vocab bert-base-uncased --train Train_count_question.csv --test Test_count_question.csv
           clipbert train tgif/count --data-dir data/tgif_count --workdir runs/tgif_count \
               --init.model runs/pretraining --data.num-workers 8
           clipbert evaluate runs/tgif_count --num-clips 4 8

Data:      26,843 questions in the train file, a tenth of whose GIFs is set aside to validate, and 3,554 to
           test.

Hardware:  8 GPUs, each 16 GIFs: 128 in an update. Hours: not measured.

Expect:    not measured; results.json has beside each number what the best constant answer gets.
"""

from clipbert_jax.tasks.count import CountQA
from data_pipelines.data_config import DataConfig
from experiments.configs.bases import full_size
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return full_size(
        CountQA(min_count=1, max_count=10),
        DataConfig(
            data_dir="data/tgif_count", num_clips=4, num_frames=4, fps=4.0, size=448, max_text_length=25
        ),
        videos_per_gpu=16,
        num_epochs=15,
    )
