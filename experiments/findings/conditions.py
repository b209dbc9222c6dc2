"""The runs of `make findings`: one small experiment, and the change that each run makes to it.

The model answers questions about generated videos with one of ten objects; a clip shows a part of a video at
most. All runs but those from scratch start from a model pretrained on generated images, as the paper's start
from a model pretrained on COCO and Visual Genome.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.consensus import Consensus
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.training.train_config import TrainConfig
from experiments.configs import demo_pretraining
from experiments.configs.bases import DEMO_VIDEOS, SMALL_OPTIMIZER
from experiments.experiment import Experiment, InitConfig

DENSE_CLIPS = 16
SPARSE_CLIPS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindingsScale:
    """Numbers of seeds and steps, and the batch size."""

    num_seeds: int = 3
    pretraining_steps: int = 900
    num_steps: int = 160
    """Number of steps of each run on videos, unless its condition changes it."""
    batch_size: int = 32


def pretraining(scale: FindingsScale, seed: int, data_dir: str) -> Experiment:
    """Return the pretraining on images that the other runs start from."""
    experiment = demo_pretraining.experiment()
    return dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, data_dir=data_dir),
        train=dataclasses.replace(
            experiment.train, num_steps=scale.pretraining_steps, save_every_steps=10_000, seed=seed
        ),
    )


def baseline(scale: FindingsScale, seed: int, data_dir: str, pretrained: str) -> Experiment:
    """Return ClipBERT: four random clips of one frame, mean, end to end, from the pretrained model."""
    return Experiment(
        model=ClipBertConfig.tiny(),
        task=OpenEndedQA(),
        data=dataclasses.replace(DEMO_VIDEOS, data_dir=data_dir, num_clips=SPARSE_CLIPS),
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(
            num_steps=scale.num_steps,
            batch_size=scale.batch_size,
            seed=seed,
            log_every_steps=20,
            save_every_steps=10_000,
        ),
        init=InitConfig(model=pretrained),
    )


def _data(experiment: Experiment, **changes: Any) -> Experiment:
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **changes))


def _train(experiment: Experiment, **changes: Any) -> Experiment:
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, **changes))


def _consensus(experiment: Experiment, consensus: Consensus) -> Experiment:
    return dataclasses.replace(experiment, task=dataclasses.replace(experiment.task, consensus=consensus))


def _from_scratch(experiment: Experiment) -> Experiment:
    return dataclasses.replace(experiment, init=InitConfig())


def _classic(experiment: Experiment) -> Experiment:
    """Return the recipe that the paper argues against: features of all clips from frozen encoders.

    The projection of the features to the width of the fusion is trained, as in that recipe.
    """
    dense = _data(experiment, sampling="uniform", num_clips=DENSE_CLIPS)
    return _train(dense, frozen_parts=("pixel_encoder/stem/", "pixel_encoder/stages/", "text_encoder/"))


def _dense_at_equal_compute(experiment: Experiment) -> Experiment:
    """Return training on four times the clips in a quarter of the steps."""
    dense = _data(experiment, sampling="uniform", num_clips=DENSE_CLIPS)
    return _train(dense, num_steps=experiment.train.num_steps * SPARSE_CLIPS // DENSE_CLIPS)


CONDITIONS: dict[str, Callable[[Experiment], Experiment]] = {
    "clipbert": lambda e: e,
    "frozen_dense": _classic,
    "scratch": _from_scratch,
    "scratch_frozen_dense": lambda e: _classic(_from_scratch(e)),
    "uniform_4_clips": lambda e: _data(e, sampling="uniform"),
    "uniform_16_clips": _dense_at_equal_compute,
    "train_1_clip": lambda e: _data(e, num_clips=1),
    "train_2_clips": lambda e: _data(e, num_clips=2),
    "train_8_clips": lambda e: _data(e, num_clips=8),
    "max": lambda e: _consensus(e, "max"),
    "log_sum_exp": lambda e: _consensus(e, "log_sum_exp"),
    "2_frames": lambda e: _data(e, num_frames=2),
    "4_frames": lambda e: _data(e, num_frames=4),
}
"""Name of a run -> its change of the baseline."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs, each with a number of test clips, of which the claim says that the first is better."""

    better: tuple[str, int]
    worse: tuple[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim, and the runs that test it, with their labels."""

    letter: str
    title: str
    claim: str
    """Claim of the paper."""
    runs: dict[str, str]
    """Name of a run -> its label."""
    comparisons: tuple[Comparison, ...] = ()
    """Comparisons that the claim decides; empty for a claim that ranks nothing."""


FINDINGS: tuple[Finding, ...] = (
    Finding(
        letter="a",
        title="End to end against frozen encoders",
        claim="Training the encoders with the task beats features of every clip from frozen encoders.",
        runs={
            "clipbert": "end to end, 4 random clips",
            "frozen_dense": "frozen encoders, 16 uniform clips",
            "scratch": "end to end, from scratch",
            "scratch_frozen_dense": "frozen random encoders, 16 uniform clips",
        },
        comparisons=(Comparison(("clipbert", 8), ("frozen_dense", 8)),),
    ),
    Finding(
        letter="b",
        title="Random sparse against uniform dense training clips",
        claim="A few random clips are better to train on than many uniform ones.",
        runs={
            "clipbert": "4 random clips",
            "uniform_4_clips": "4 uniform clips",
            "uniform_16_clips": "16 uniform clips, a quarter of the steps",
        },
        comparisons=(
            Comparison(("clipbert", 8), ("uniform_16_clips", 8)),
            Comparison(("clipbert", 8), ("uniform_4_clips", 8)),
        ),
    ),
    Finding(
        letter="c",
        title="Clips in training and in testing",
        claim="More clips in testing help, up to 8 or 16.",
        runs={
            "train_1_clip": "trained on 1 clip",
            "train_2_clips": "trained on 2 clips",
            "clipbert": "trained on 4 clips",
            "train_8_clips": "trained on 8 clips",
        },
        comparisons=(
            Comparison(("clipbert", 8), ("clipbert", 1)),
            Comparison(("clipbert", 16), ("clipbert", 8)),
        ),
    ),
    Finding(
        letter="d",
        title="Consensus",
        claim="Log-sum-exp is at least as good as the mean, and both are better than the maximum.",
        runs={"clipbert": "mean", "max": "maximum", "log_sum_exp": "log-sum-exp"},
        comparisons=(
            Comparison(("log_sum_exp", 8), ("clipbert", 8)),
            Comparison(("clipbert", 8), ("max", 8)),
        ),
    ),
    Finding(
        letter="e",
        title="Image-text pretraining",
        claim="Pretraining on images and captions is much better than none.",
        runs={"clipbert": "pretrained on images", "scratch": "from scratch"},
        comparisons=(Comparison(("clipbert", 8), ("scratch", 8)),),
    ),
    Finding(
        letter="f",
        title="Frames per clip",
        claim="One or two frames per clip are enough (the settings of the paper).",
        runs={"clipbert": "1 frame", "2_frames": "2 frames", "4_frames": "4 frames"},
    ),
)
