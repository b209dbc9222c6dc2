"""Watches how often the train step is compiled: once for each length of texts, and never else."""

from __future__ import annotations

from collections.abc import Callable

import jax

from clipbert_jax.batch import Batch
from clipbert_jax.training.step import TrainStep


class Compilations:
    """Says why a step takes minutes: its texts have a new length, or something is wrong."""

    def __init__(self, train_step: TrainStep, log: Callable[[str], None]) -> None:
        self._count: Callable[[], int] = getattr(train_step, "_cache_size", lambda: 0)
        self._lengths: set[int] = set()
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()
        self._num_unexpected = 0
        self._log = log

    def before_step(self, step: int, batch: Batch) -> bool:
        """Announce that a bucket of text lengths is met for the first time; return whether this compiles."""
        length = batch.text_ids.shape[-1]
        if self._lengths and length not in self._lengths:
            self._log(f"step {step} compiles, as the first with texts of {length} tokens")
        self._lengths.add(length)
        num_shapes = len(self._shapes)
        self._shapes.add(tuple(array.shape for array in jax.tree.leaves(batch)))
        return len(self._shapes) > num_shapes

    def after_step(self, step: int) -> int:
        """Report a compilation that no new shape of a batch explains; return how many there were in all."""
        num_unexpected = self._count() - len(self._shapes)
        if num_unexpected > self._num_unexpected:
            self._num_unexpected = num_unexpected
            self._log(
                f"step {step} compiled again although a batch of this shape came before: training is "
                "slower than it should be; please report this with your config.json"
            )
        return len(self._shapes) + self._num_unexpected
