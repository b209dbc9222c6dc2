"""Text buckets: the few lengths that texts are cut to, so that short texts do not pay for the longest.

`score` uses them. Each length is a program of its own, so there are few. The bucket of a text follows from
its own length, whatever texts it is scored with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

BUCKET_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Lengths so close that a usual text wastes about a tenth, counting the visual tokens of its clip."""


def text_lengths(text_mask: Bool[np.ndarray, "*shape l"]) -> Int[np.ndarray, "*shape"]:
    """Return the number of tokens up to the last real one; 0 for an empty text."""
    positions = np.arange(1, text_mask.shape[-1] + 1)
    return np.max(np.where(text_mask, positions, 0), axis=-1, initial=0)


def texts_by_bucket(
    lengths: Int[np.ndarray, " n"], longest: int, bucket_lengths: Sequence[int] = BUCKET_LENGTHS
) -> Iterator[tuple[int, Int[np.ndarray, " some"]]]:
    """Yield (length to cut to, which texts) for every bucket that has texts, shortest first.

    Args:
      lengths: lengths of the texts.
      longest: length that texts are padded to; no bucket is longer.
      bucket_lengths: rising lengths; without any, all texts keep the length `longest`.
    """
    buckets = np.array([*(length for length in bucket_lengths if length < longest), longest])
    bucket_of = np.searchsorted(buckets, lengths)
    for bucket in np.unique(bucket_of):
        yield int(buckets[bucket]), np.flatnonzero(bucket_of == bucket)
