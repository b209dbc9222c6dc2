"""Gradients that are not finite are counted, named and, ten in a row, the end."""

import json

import jax.numpy as jnp
import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.training.checkpoint import ResumePoint
from clipbert_jax.training.nonfinite import NonFiniteGuard

from .conftest import make_batch

START = ResumePoint(data={"next_step": 0})


def metrics(*, is_skipped):
    return {"loss": jnp.zeros(()), "is_skipped": jnp.float32(is_skipped)}


def names_of(step):
    return [f"video{step}_{i}" for i in range(3)]


def go(guard, *skips, first=1):
    for step, is_skipped in enumerate(skips, start=first):
        guard.after_step(step, make_batch(0), metrics(is_skipped=is_skipped))


def test_ten_in_a_row_end_the_run_and_are_named(tmp_path):
    said = []
    guard = NonFiniteGuard(tmp_path, names_of, START, log=said.append)
    go(guard, 0, *[1] * 9, 0, *[1] * 10)
    assert guard.num_in_a_row == 9, "the last step is looked at when the next one runs"
    with pytest.raises(UserError, match=r"10 steps in a row, up to 21, .* video21_0, video21_1"):
        guard.flush()
    lines = [json.loads(line) for line in (tmp_path / "nonfinite_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(2, 11), *range(12, 22)]
    assert lines[0]["examples"] == names_of(2)
    assert said[0].startswith("step 2: the gradient is not finite")


def test_the_count_goes_on_after_a_resume(tmp_path):
    guard = NonFiniteGuard(tmp_path, names_of, START, log=lambda line: None)
    go(guard, *[1] * 6)
    guard.before_save(6)
    point = ResumePoint(data={"next_step": 6}, num_nonfinite=guard.num_in_a_row)
    resumed = NonFiniteGuard(tmp_path, names_of, point, log=lambda line: None)
    go(resumed, *[1] * 4, first=7)
    with pytest.raises(UserError, match="up to 10"):
        resumed.flush()


def test_finite_steps_say_nothing(tmp_path):
    guard = NonFiniteGuard(tmp_path, names_of, START, log=lambda line: pytest.fail(line))
    go(guard, 0, 0, 0)
    guard.flush()
    assert not (tmp_path / "nonfinite_steps.jsonl").exists()
