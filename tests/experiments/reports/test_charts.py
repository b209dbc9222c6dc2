"""Curves: every value is shown, or its loss is."""

import math
import re

import pytest

from experiments.reports.charts import MAX_POINTS, Series, curve_chart


def chart(values, *, steps=None, **options):
    steps = list(range(10, 10 * len(values) + 1, 10)) if steps is None else steps
    series = Series(name="loss", steps=steps, values=values)
    return curve_chart("Loss", [series], show=lambda value: f"{value:.3g}", **options)


def points(path):
    return [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.]+,[\d.]+", path)]


def test_a_curve_goes_from_the_first_step_to_the_last_and_from_0_to_a_round_number():
    one = chart([1.0, 0.25])
    frame = one.frame
    assert points(one.lines[0].path) == [
        (frame.x_position(0.5), frame.y_position(1.0)),
        (frame.x_position(1.0), frame.y_position(0.25)),
    ]
    assert [label for _, label in one.y_ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert one.readings == [
        (frame.x_position(0.5), "1 at step 10"),
        (frame.x_position(1.0), "0.25 at step 20"),
    ]


def test_a_long_curve_is_thinned_with_a_band_of_what_was_there():
    values = [1.0] * 10_000
    values[5_000] = 9.0
    one = chart(values)
    assert 0.5 * MAX_POINTS < len(points(one.lines[0].path)) <= MAX_POINTS
    highest = min(y for _, y in points(one.lines[0].band))
    assert highest == pytest.approx(one.frame.y_position(9 / 10), abs=0.1)
    assert any("(1 to 9)" in text for _, text in one.readings)
    assert one.readings[-1][1] == "1 at step 100,000"


def test_what_is_not_finite_is_a_gap_and_is_said():
    one = chart([1.0, math.nan, 0.5, math.inf])
    assert one.lines[0].path.count("M") == 2
    assert not re.search("nan|inf", one.lines[0].path)
    assert [text for _, text in one.readings] == [
        "1 at step 10",
        "not finite at step 20",
        "0.5 at step 30",
        "not finite at step 40",
    ]
    assert chart([math.nan, math.nan]) is None
    assert chart([]) is None


def test_an_axis_is_logarithmic_only_where_small_values_would_vanish():
    values = [1000.0, 0.01]
    assert chart(values, may_be_logarithmic=True).y_ticks[0][1] == "0.01"
    assert chart(values).y_ticks[0][1] == "0"
    assert chart([3.0, 0.0], may_be_logarithmic=True).y_ticks[0][1] == "0"


@pytest.mark.parametrize("values", [[0.0, 0.0], [-1.0, 2.0], [-3.0, -2.0], [1e-7, 2e-7]])
def test_all_values_are_within_the_frame(values):
    one = chart(values)
    for _, y in points(one.lines[0].path):
        assert one.frame.top - 0.1 <= y <= one.frame.bottom + 0.1
