"""Learning rates against the original's tables (golden 06), and where ours are different."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.training.schedules import learning_rate_schedule

ROWS = json.loads((Path(__file__).parents[2] / "goldens" / "06_lr_schedules.json").read_text())["rows"]
NAMES = {"linear": "linear", "invsqrt": "inverse_sqrt", "constant": "constant", "multi_step": "multi_step"}


def rates(steps, **settings):
    schedule = learning_rate_schedule(1.0, **{"num_steps": 10, "warmup_share": 0.0, **settings})
    return [float(schedule(step - 1)) for step in steps]


@pytest.mark.parametrize("name", NAMES)
def test_released_rates_equal_the_original(name):
    rows = [row for row in ROWS if row["decay"] == name]
    with jax.enable_x64(True):
        actual = [_released_rate(row) for row in rows]
    np.testing.assert_allclose(actual, [row["lr"] for row in rows], rtol=1e-12)


def _released_rate(row: dict) -> float:
    """Return our rate; multi_step counts epochs in the original, and here an epoch is one of 40 steps."""
    is_multi_step = row["decay"] == "multi_step"
    num_steps = 40 if is_multi_step else row["num_train_steps"]
    step = row["multi_step_epoch"] if is_multi_step else row["global_step"]
    schedule = learning_rate_schedule(
        row["learning_rate"],
        num_steps=num_steps,
        warmup_share=row["warmup_ratio"],
        name=NAMES[row["decay"]],
        milestones=[epoch / num_steps for epoch in sorted(row.get("decay_epochs", []))],
        rule="original",
    )
    rate = schedule(step - 1)
    assert rate.dtype == jnp.float64
    return float(rate)


def test_the_table_has_every_schedule():
    assert {row["decay"] for row in ROWS} == set(NAMES)


def test_linear_rises_then_falls_to_zero():
    expected = [0.25, 0.5, 0.75, 1.0, 5 / 6, 4 / 6, 0.5, 2 / 6, 1 / 6, 0.0, 0.0]
    np.testing.assert_allclose(rates(range(1, 12), warmup_share=0.4), expected, rtol=1e-6)


def test_without_warmup_the_first_step_is_nearly_at_the_peak():
    assert rates([1], num_steps=4) == [0.75]


def test_warmup_may_take_all_steps():
    np.testing.assert_allclose(rates([1, 9, 10], warmup_share=1.0), [0.1, 0.9, 0.0], rtol=1e-6)


def test_the_end_of_a_long_linear_schedule_is_exact_in_float32():
    assert rates([999_999], num_steps=1_000_000) == [np.float32(1e-6)]


def test_inverse_sqrt_rises_then_falls_to_no_end():
    expected = [0.25, 1.0, np.sqrt(4 / 5), 0.5, 0.1]
    np.testing.assert_allclose(
        rates([1, 4, 5, 16, 400], name="inverse_sqrt", warmup_share=0.4), expected, rtol=1e-6
    )


def test_inverse_sqrt_needs_no_warmup():
    np.testing.assert_allclose(rates([1, 4], name="inverse_sqrt"), [1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(rates([1, 4], name="inverse_sqrt", rule="original"), [1e-8, 1e-8], rtol=1e-6)


def test_constant_has_no_warmup():
    assert rates([1, 5, 100], name="constant", warmup_share=0.4) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("rule", "last"), [("corrected", 0.25), ("original", 0.125)])
def test_multi_step_halves_at_each_milestone_without_warmup(rule, last):
    actual = rates(range(1, 11), name="multi_step", milestones=(0.3, 0.6), warmup_share=0.4, rule=rule)
    assert actual == [1.0] * 2 + [0.5] * 3 + [last] * 5


def test_a_milestone_is_the_first_step_that_completes_its_share():
    # 0.55 * 100 is 55.00000000000001 in floating point.
    assert rates([54, 55], num_steps=100, name="multi_step", milestones=(0.55,)) == [1.0, 0.5]
    assert rates([3, 4], num_steps=7, name="multi_step", milestones=(0.5,)) == [1.0, 0.5]


def test_milestones_may_fall_on_one_step():
    assert rates([1, 2], num_steps=2, name="multi_step", milestones=(0.6, 0.7)) == [1.0, 0.25]


@pytest.mark.parametrize(("rule", "rate"), [("corrected", 0.0), ("original", 1e-8)])
def test_only_the_released_rule_has_a_floor(rule, rate):
    assert rates([10], rule=rule) == [np.float32(rate)]
    zero_peak = learning_rate_schedule(0.0, num_steps=10, warmup_share=0.0, name="constant", rule=rule)
    assert float(zero_peak(0)) == np.float32(rate)
