"""A model that compiles in a second or two, and batches for it."""

import dataclasses

import numpy as np
import pytest

from clipbert_jax.batch import Batch
from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.retrieval import Retrieval

TASK = Retrieval(num_negatives=2)


def small_config(*, dropout_rate: float = 0.0) -> ClipBertConfig:
    tiny = ClipBertConfig.tiny(vocab_size=32)
    pixel_encoder = dataclasses.replace(
        tiny.pixel_encoder, stem_width=8, stage_width=16, num_frozen_stages=1, is_norm_trainable=True
    )
    fusion = dataclasses.replace(
        tiny.fusion,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        dropout_rate=dropout_rate,
    )
    return dataclasses.replace(tiny, pixel_encoder=pixel_encoder, fusion=fusion)


def make_batch(seed: int, *, num_videos: int = 8) -> Batch:
    rng = np.random.default_rng(seed)
    num_texts, length = 1 + TASK.num_negatives, 6
    text_mask = np.arange(length) < rng.integers(2, length + 1, (num_videos, num_texts, 1))
    return Batch(
        frames=rng.integers(0, 256, (num_videos, 2, 1, 32, 32, 3), np.uint8),
        text_ids=np.where(text_mask, rng.integers(1, 32, text_mask.shape), 0).astype(np.int32),
        text_mask=text_mask,
        text_valid=np.ones((num_videos, num_texts), bool),
        labels=np.tile(np.array([1, 0, 0], np.int32), (num_videos, 1)),
        example_mask=np.ones(num_videos, bool),
    )


@pytest.fixture
def batches() -> list[Batch]:
    return [make_batch(seed) for seed in range(3)]
