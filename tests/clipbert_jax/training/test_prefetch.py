"""Prefetching: the order and position of batches, errors, and inputs that never come."""

import threading
import time

import numpy as np
import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.training import prefetch
from clipbert_jax.training.prefetch import Prefetcher

from .conftest import make_batch


class Batches:
    """Counts up; `fails_at` raises there, `stuck_at` blocks there until `free` is set."""

    def __init__(self, *, fails_at=None, stuck_at=None):
        self.position, self.fails_at, self.stuck_at = 0, fails_at, stuck_at
        self.free, self.is_closed = threading.Event(), False

    def __next__(self):
        if self.position == self.fails_at:
            raise UserError("video 7 does not decode")
        if self.position == self.stuck_at:
            self.free.wait(30)
        self.position += 1
        return make_batch(self.position, num_videos=1)

    def get_state(self):
        return {"next_step": self.position}

    def close(self):
        self.is_closed = True


def test_order_and_position_are_those_of_the_batches_returned():
    source = Batches()
    batches = Prefetcher(source, lambda batch: batch)
    assert batches.state == {"next_step": 0}
    for step in range(1, 5):
        np.testing.assert_array_equal(next(batches).frames, make_batch(step, num_videos=1).frames)
        assert batches.state == {"next_step": step}, "not where the reading ahead is"
    batches.close()
    assert source.is_closed
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_an_error_of_the_input_reaches_the_loop_in_its_place():
    batches = Prefetcher(Batches(fails_at=2), lambda batch: batch)
    next(batches)
    next(batches)
    with pytest.raises(UserError, match="video 7"):
        next(batches)
    batches.close()


def test_waiting_is_measured():
    def slowly(batch):
        time.sleep(0.05)
        return batch

    batches = Prefetcher(Batches(), slowly)
    for _ in range(4):
        next(batches)
    assert batches.wait_seconds > 0.1
    batches.close()


def test_an_input_that_never_comes_is_an_error_and_does_not_block_the_end(monkeypatch):
    monkeypatch.setattr(prefetch, "_CLOSE_SECONDS", 0.2)
    source = Batches(stuck_at=1)
    batches = Prefetcher(source, lambda batch: batch, timeout_seconds=0.2)
    next(batches)
    with pytest.raises(UserError, match="no batch came"):
        next(batches)
    batches.close()
    source.free.set()
