"""Set up JAX before any test imports it: the CPU as 8 devices, one private compilation cache per run."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.xla_flags import COMPILE_FAST, EIGHT_DEVICES

ROOT = Path(__file__).parent
_CACHE = "JAX_COMPILATION_CACHE_DIR"

os.environ["JAX_PLATFORMS"] = "cpu"
# Sharded code runs on 8 devices in every test; one-device code uses the first.
os.environ["XLA_FLAGS"] = f"{EIGHT_DEVICES} {COMPILE_FAST} {os.environ.get('XLA_FLAGS', '')}"
# Nothing in a test may reach for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"


LONGEST_FIRST = (
    "soak/test_soak.py",
    "experiments/test_processes.py",
    "experiments/test_resume.py",
    "experiments/test_convert.py",
    "experiments/test_export.py",
    "experiments/test_cli.py",
    "training/test_trajectory_golden.py",
    "training/test_sharding.py",
    "training/test_step.py",
    "training/test_cost_levers.py",
    "benchmarks/test_bench.py",
    "experiments/test_evaluate.py",
    "models/test_lowering.py",
    "tasks/test_clip_steps_golden.py",
    "weights/test_attacks.py",
)
"""Files that take a minute or so: begun last, they would leave a worker alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in their order."""
    ranks = {str(ROOT / name): rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(str(item.path), len(ranks)))


def pytest_configure(config: pytest.Config) -> None:
    """Give this run, its workers and the commands that its tests start one compilation cache.

    The cache holds machine code, so it is never shared with other runs or users, and is deleted at the end.
    """
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist: it has inherited the directory
    directory = tempfile.mkdtemp(prefix="clipbert-tests-")
    os.environ[_CACHE] = directory
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # the tests are many small programs
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
