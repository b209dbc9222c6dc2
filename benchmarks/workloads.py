"""Programs to time: a task, a model and the shape of a batch, for this project, the peer and the compilers.

Batches are random, so that only the model is timed, without data or network.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from clipbert_jax.batch import Batch
from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.pixel_encoder import grid_size
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.retrieval import Retrieval

Kind = Literal["train", "inference", "pairs"]
"""`train`: gradients and the update. `inference`: frames and texts to scores. `pairs`: texts against clips
whose visual tokens are at hand."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """One program to time."""

    name: str
    kind: Kind
    task: Retrieval | MultipleChoiceQA | Pretraining
    model: ClipBertConfig
    batch_size: int
    """Number of videos, or images, in one call on all devices together."""
    num_clips: int
    num_frames: int
    size: int
    """Side of a square frame in pixels."""
    num_texts: int
    """Number of texts per video; for `pairs`, of texts that each video is scored against."""
    text_length: int

    @property
    def items_per_call(self) -> int:
        """Number of videos, or of (text, clip) pairs, in one call."""
        pairs = self.batch_size * self.num_texts * self.num_clips
        return pairs if self.kind == "pairs" else self.batch_size

    @property
    def unit(self) -> str:
        """Name of the items."""
        return "pairs" if self.kind == "pairs" else "videos"

    @property
    def num_visual_tokens(self) -> int:
        """Number of visual tokens per clip that the fusion sees."""
        num_tokens = math.prod(grid_size(self.model.pixel_encoder, self.size, self.size))
        num_sampled = self.task.num_sampled_tokens if self.kind == "train" else 0
        return min(num_tokens, num_sampled) if num_sampled else num_tokens


def _base(dtype: Literal["float32", "bfloat16"]) -> ClipBertConfig:
    return dataclasses.replace(ClipBertConfig.base(), compute_dtype=dtype)


_BF16, _FP32 = _base("bfloat16"), _base("float32")

# The paper's tasks on one accelerator, in the original's batch sizes. The first is MSR-VTT: 8 clips of 2
# frames, a matching and another caption.
ACCELERATOR = (
    Workload(
        name="retrieval training",
        kind="train",
        task=Retrieval(consensus="log_sum_exp"),
        model=_BF16,
        batch_size=16,
        num_clips=8,
        num_frames=2,
        size=448,
        num_texts=2,
        text_length=20,
    ),
    Workload(
        name="inference",
        kind="inference",
        task=Retrieval(consensus="log_sum_exp"),
        model=_BF16,
        batch_size=16,
        num_clips=8,
        num_frames=2,
        size=448,
        num_texts=1,
        text_length=20,
    ),
    Workload(
        name="pair scoring",
        kind="pairs",
        task=Retrieval(consensus="log_sum_exp"),
        model=_BF16,
        batch_size=4,
        num_clips=16,
        num_frames=2,
        size=448,
        num_texts=64,
        text_length=20,
    ),
    Workload(
        name="pretraining",
        kind="train",
        task=Pretraining(),
        model=_BF16,
        batch_size=32,
        num_clips=1,
        num_frames=1,
        size=768,
        num_texts=2,
        text_length=30,
    ),
    Workload(
        name="TGIF action training",
        kind="train",
        task=MultipleChoiceQA(),
        model=_BF16,
        batch_size=16,
        num_clips=1,
        num_frames=1,
        size=768,
        num_texts=5,
        text_length=25,
    ),
)


def _on_cpu(kind: Kind, size: int) -> Workload:
    return Workload(
        name=f"base {kind} {size} px",
        kind=kind,
        task=Retrieval(),
        model=_FP32,
        batch_size=1,
        num_clips=2,
        num_frames=2,
        size=size,
        num_texts=1,
        text_length=20,
    )


CPU = (
    _on_cpu("inference", 224),
    _on_cpu("train", 224),
    _on_cpu("inference", 448),
    _on_cpu("train", 448),
)
"""One video of 2 clips of 2 frames."""


def _on_laptop(kind: Kind) -> Workload:
    return Workload(
        name=f"tiny {kind}",
        kind=kind,
        task=Retrieval(num_negatives=5),
        model=ClipBertConfig.tiny(),
        batch_size=32,
        num_clips=4,
        num_frames=1,
        size=48,
        num_texts=6,
        text_length=20,
    )


DEMO = (_on_laptop("inference"), _on_laptop("train"))
"""The demo's model and batch."""


SMOKE = tuple(
    dataclasses.replace(
        workload,
        model=dataclasses.replace(ClipBertConfig.tiny(), compute_dtype="bfloat16"),
        batch_size=8,
        num_clips=min(workload.num_clips, 2),
        size=32,
        num_texts=2,
    )
    for workload in ACCELERATOR
)
"""The accelerator's workloads with a small model, in seconds on a CPU: does everything run?"""

SETS = {"accelerator": ACCELERATOR, "cpu": CPU, "demo": DEMO, "smoke": SMOKE}


def find_workload(set_name: str, name: str, batch_size: int | None = None) -> Workload:
    """Return a workload by its names, if asked for with another batch size."""
    workload = next(workload for workload in SETS[set_name] if workload.name == name)
    return dataclasses.replace(workload, batch_size=batch_size) if batch_size else workload


def synthetic_batch(workload: Workload, seed: int = 0) -> Batch:
    """Return random frames, and texts of full length; the first text of each video matches it."""
    random = np.random.default_rng(seed)
    b, n, length = workload.batch_size, workload.num_texts, workload.text_length
    frames = (b, workload.num_clips, workload.num_frames, workload.size, workload.size, 3)
    vocab_size = workload.model.fusion.vocab_size
    text_ids = random.integers(0, vocab_size, (b, n, length), dtype=np.int32)
    labels = np.zeros((b, n), np.int32)
    labels[:, 0] = 1
    is_pretraining = isinstance(workload.task, Pretraining)
    is_masked = random.random(text_ids.shape) < 0.15
    return Batch(
        frames=random.integers(0, 256, frames, dtype=np.uint8),
        text_ids=text_ids,
        text_mask=np.ones(text_ids.shape, bool),
        text_valid=np.ones((b, n), bool),
        labels=np.zeros(b, np.int32) if isinstance(workload.task, MultipleChoiceQA) else labels,
        example_mask=np.ones(b, bool),
        token_labels=np.where(is_masked, text_ids, -1) if is_pretraining else None,
    )
