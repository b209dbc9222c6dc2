"""Captions of other videos, for retrieval and pretraining: texts that do not match."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

import numpy as np

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption


def check_negatives(captions: Sequence[Caption]) -> None:
    """Refuse captions without a possible negative: a caption of another video with another text.

    Raises:
      UserError: a caption has none; it names the first.
    """
    of_video = collections.Counter(caption.video_id for caption in captions)
    of_text = collections.Counter(caption.text for caption in captions)
    of_both = collections.Counter((caption.video_id, caption.text) for caption in captions)
    for c in captions:
        if of_video[c.video_id] + of_text[c.text] - of_both[c.video_id, c.text] == len(captions):
            raise UserError(
                f"caption {c.id!r} has no negative: all others belong to its video or have its text; give "
                "captions of at least two videos with different texts"
            )


def draw_negative(captions: Sequence[Caption], positive: Caption, rng: np.random.Generator) -> Caption:
    """Draw a caption of another video with another text."""
    others = (captions[index] for index in _draws(rng, len(captions)))
    return next(c for c in others if c.video_id != positive.video_id and c.text != positive.text)


def _draws(rng: np.random.Generator, count: int) -> Iterator[int]:
    """Yield some random indices, then all in random order, so that a search always ends."""
    yield from rng.integers(count, size=32).tolist()
    yield from rng.permutation(count).tolist()
