"""The campaigns of `make soak`, short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.xla_flags import COMPILE_FAST

ROOT = Path(__file__).parents[2]


def run(module, *arguments):
    """Run a campaign on one device; return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.soak.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": COMPILE_FAST},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_nothing(tmp_path):
    said = run("kills", "--number", 10, "--steps-per-kill", 40, "--folder", tmp_path)
    assert "10 kills" in said
    assert "bitwise those of the unbroken run" in said


@pytest.mark.slow
def test_kills_of_one_of_two_processes_lose_nothing(tmp_path):
    said = run("kills_together", "--number", 3, "--folder", tmp_path)
    assert "3 kills" in said
    assert "bitwise those of the unbroken run" in said


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "pretraining"])
def test_a_stop_after_any_step_changes_nothing(task):
    said = run("stops", "--steps", 1, 2, "--tasks", task, "--workers", 0)
    assert "bitwise" in said


@pytest.mark.slow
def test_memory_and_files_stay_as_they_are_for_3000_steps():
    """The first 700 still fill heaps, and are not compared."""
    assert "1 compilation(s)" in run("long_run", "--steps", 3000, "--every", 75)
