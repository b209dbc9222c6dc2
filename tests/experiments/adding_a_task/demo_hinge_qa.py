"""The small model answers questions about generated videos with a hinge loss."""

from __future__ import annotations

import dataclasses

from experiments.configs import EXPERIMENTS
from experiments.experiment import Experiment
from tests.experiments.adding_a_task.hinge_qa import HingeQA


def demo_hinge_qa() -> Experiment:
    """Return the experiment."""
    return dataclasses.replace(EXPERIMENTS["demo/open_ended_qa"](), task=HingeQA(margin=0.5))
