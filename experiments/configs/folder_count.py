"""Counting in your own videos, with the small model and random initial weights.

Command:   clipbert prepare table --table questions.csv --videos DIR --data-dir data/mine
           clipbert train folder/count --data-dir data/mine --workdir runs/mine
           clipbert evaluate runs/mine --num-clips 1 8

Data:      questions.csv with the columns video, question and count, and split: train, validation or test.

Hardware:  a laptop for some dozens of videos.

Expect:    not measured; results.json has beside each number what guessing or the best constant answer gets.
"""

from clipbert_jax.tasks.count import CountQA
from experiments.configs.bases import folder
from experiments.experiment import Experiment


def experiment() -> Experiment:
    """Return the experiment."""
    return folder(CountQA(max_count=10))
