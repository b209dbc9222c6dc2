"""The watchdog ends a process that makes no progress, never before, and writes down its stacks."""

import subprocess
import sys
import threading

import pytest

from clipbert_jax.training import watchdog as watchdog_module
from clipbert_jax.training.watchdog import COMPILE_SECONDS, MIN_SECONDS, Watchdog


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def watched(tmp_path):
    """Return a clock, a watchdog that looks all the time, and what it sets when it gives up."""
    clock, has_given_up = Clock(), threading.Event()
    watchdog = Watchdog(tmp_path, give_up=has_given_up.set, clock=clock, check_seconds=0.005)
    with watchdog:
        yield clock, watchdog, has_given_up


def stays_calm(has_given_up):
    return not has_given_up.wait(0.1)


def test_the_first_step_may_take_an_hour_to_compile(watched, tmp_path, capfd):
    clock, _, has_given_up = watched
    clock.now = COMPILE_SECONDS - 1
    assert stays_calm(has_given_up)
    clock.now = COMPILE_SECONDS + 1
    assert has_given_up.wait(10)
    assert "no progress for 3601 s since the start" in capfd.readouterr().err


def test_short_steps_may_stop_for_ten_minutes_and_long_ones_for_twenty_medians(watched, tmp_path, capfd):
    clock, watchdog, has_given_up = watched
    for number in range(5):
        clock.now += 1
        watchdog.beat_step(number)
    assert watchdog.limit == MIN_SECONDS
    for number in range(5, 20):
        clock.now += 100
        watchdog.beat_step(number)
    assert watchdog.limit == 20 * 100
    clock.now += 1900
    assert stays_calm(has_given_up)
    clock.now += 200
    assert has_given_up.wait(10)
    written = (tmp_path / "stacks-process-0.txt").read_text()
    assert "since step 19 (allowed: 2000 s)" in written
    assert "_watch" in written, "the stacks of all threads"
    assert "test_watchdog.py" in written
    assert "exit code 75" in capfd.readouterr().err


def test_patience_lasts_for_one_interval_and_does_not_count(watched):
    clock, watchdog, has_given_up = watched
    for number in range(4):
        watchdog.beat_step(number)
    watchdog.extend_deadline()
    clock.now += 3000
    assert stays_calm(has_given_up)
    watchdog.beat_step(4)
    assert watchdog.limit == MIN_SECONDS
    clock.now += 700
    assert has_given_up.wait(10)


def test_long_first_steps_are_let_through_until_some_are_known(watched):
    """Else each restart would end at the same step."""
    clock, watchdog, has_given_up = watched
    watchdog.extend_deadline()
    clock.now += 1000
    watchdog.beat_step(1)
    for number in range(2, 5):
        assert watchdog.limit == COMPILE_SECONDS
        clock.now += 900
        assert stays_calm(has_given_up)
        watchdog.beat_step(number)
    assert watchdog.limit == 20 * 900


def test_only_steps_say_how_long_steps_take(watched):
    clock, watchdog, _ = watched
    for number in range(5):
        clock.now += 100
        watchdog.beat_step(number)
    for _ in range(100):
        clock.now += 1
        watchdog.beat("a batch of the validation of step 4")
    assert watchdog.limit == 20 * 100


def test_it_ends_the_process_while_the_main_thread_hangs(tmp_path):
    program = f"""
import pathlib, threading
from clipbert_jax.training import watchdog
watchdog.MIN_SECONDS = 0.2
with watchdog.Watchdog(pathlib.Path({str(tmp_path)!r}), check_seconds=0.05) as dog:
    for step in range(1, 6):
        dog.beat_step(step)
    threading.Event().wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 75
    assert "no progress" in done.stderr
    assert "Event().wait" in done.stderr or "threading.py" in done.stderr


def test_a_block_that_has_ended_is_not_watched(tmp_path):
    clock, has_given_up = Clock(), threading.Event()
    with Watchdog(tmp_path, give_up=has_given_up.set, clock=clock, check_seconds=0.005) as watchdog:
        watchdog.beat("step 1")
    clock.now += 10 * watchdog_module.COMPILE_SECONDS
    assert stays_calm(has_given_up)
