"""Callbacks: what watches a training without being part of it. `loop.train` calls them at named moments."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from clipbert_jax.batch import Batch
from clipbert_jax.training.step import Metrics
from clipbert_jax.training.validation import ValidationHistory


class Callback:
    """Base class whose moments do nothing. Steps are counted from 1; `step` is the step of the moment.

    A step:        before_step, before_dispatch, after_step
    A save:        before_save, after_save
    A validation:  before_validation, on_validation_batch for each of its batches, after_validation
    The end:       at_end unless an error ends the training, then close
    """

    def before_step(self, step: int) -> None:
        """Called before the step asks for its batch."""

    def before_dispatch(self, step: int, batch: Batch) -> None:
        """Called when the batch has come, before the devices get the step."""

    def after_step(self, step: int, batch: Batch, metrics: Metrics) -> None:
        """Called when the devices have got the step; reading `metrics` would wait for them."""

    def before_save(self, step: int) -> None:
        """Called before a checkpoint is saved."""

    def after_save(self, step: int) -> None:
        """Called when the arrays are copied; files are still being written."""

    def before_validation(self, step: int) -> None:
        """Called before a validation, when the devices are idle."""

    def on_validation_batch(self, step: int) -> None:
        """Called after each batch of a validation."""

    def after_validation(self, step: int, metrics: Mapping[str, float], history: ValidationHistory) -> None:
        """Called after a validation; `history` includes it."""

    def at_end(self, step: int) -> None:
        """Called after the last step, or the step at which the training was asked to stop."""

    def close(self) -> None:
        """Release what the callback holds, also after an error."""


class CallbackList(Callback):
    """Calls several callbacks, the first one first; `close` closes the last one first."""

    def __init__(self, *callbacks: Callback) -> None:
        self._callbacks = callbacks
        for moment in vars(Callback).keys() - vars(CallbackList).keys():
            if not moment.startswith("_"):
                setattr(self, moment, functools.partial(self._call_all, moment))

    def _call_all(self, moment: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, moment)(*arguments)

    def close(self) -> None:
        """Close all, the last one first, also when one of them raises."""
        with contextlib.ExitStack() as stack:
            for callback in self._callbacks:
                stack.callback(callback.close)
