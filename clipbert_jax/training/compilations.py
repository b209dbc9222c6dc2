"""Counts how often the train step is compiled: once for each length of texts, and never again."""

from __future__ import annotations

from collections.abc import Callable

import jax

from clipbert_jax.batch import Batch
from clipbert_jax.training.callbacks import Callback
from clipbert_jax.training.step import Metrics, TrainStep


class Compilations(Callback):
    """Explains why a step takes minutes: its texts have a new length, or something is wrong.

    Args:
      train_step: jitted step.
      on_compile: function that is called before a step that compiles.
      log: receives the explanations.

    Attributes:
      count: number of compilations up to now.
    """

    def __init__(
        self, train_step: TrainStep, *, on_compile: Callable[[], None], log: Callable[[str], None]
    ) -> None:
        self._num_programs: Callable[[], int] = getattr(train_step, "_cache_size", lambda: 0)
        self._on_compile, self._log = on_compile, log
        self._lengths: set[int] = set()
        self._shapes: set[tuple[tuple[int, ...], ...]] = set()
        self._num_unexpected = 0

    @property
    def count(self) -> int:
        return len(self._shapes) + self._num_unexpected

    def before_dispatch(self, step: int, batch: Batch) -> None:
        """Announce the first batch of a shape."""
        length = batch.text_ids.shape[-1]
        if self._lengths and length not in self._lengths:
            self._log(f"step {step} compiles, as the first with texts of {length} tokens")
        self._lengths.add(length)
        shape = tuple(array.shape for array in jax.tree.leaves(batch))
        if shape not in self._shapes:
            self._shapes.add(shape)
            self._on_compile()

    def after_step(self, step: int, batch: Batch, metrics: Metrics) -> None:
        """Report a compilation that no new shape of a batch explains."""
        num_unexpected = self._num_programs() - len(self._shapes)
        if num_unexpected > self._num_unexpected:
            self._num_unexpected = num_unexpected
            self._log(
                f"step {step} compiled again although a batch of this shape came before: training is "
                "slower than it should be; please report this with your config.json"
            )
