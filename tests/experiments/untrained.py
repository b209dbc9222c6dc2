"""A run of random weights, as if it were loaded: quicker than one that is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import model_shapes
from experiments.runs.load_run import Run
from experiments.runs.resolve import resolve, training_answers

from . import small_run


def untrained_run(task: str, data_dir: str | Path, *, seed: int = 0, scale: float = 0.1) -> Run:
    """Return a run of a demo's task; its weights are normal, `scale` wide."""
    experiment = resolve(small_run.experiment(data_dir, task=task))
    model_def, trainable, frozen = model_shapes(experiment.model, experiment.task.head)
    rng = np.random.default_rng(seed)
    parameters = {
        name: rng.normal(1 if name.endswith(("scale", "variance")) else 0, scale, struct.shape).astype(
            np.float32
        )
        for name, struct in {**trainable, **frozen}.items()
    }
    return Run(
        workdir=Path("untrained"),
        experiment=experiment,
        step=0,
        scorer=Scorer(model_def, parameters),
        tokenizer=experiment.data.load_tokenizer(),
        answers=training_answers(experiment),
    )
