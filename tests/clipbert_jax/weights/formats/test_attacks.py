"""Files that attack: each is refused with its reason, runs nothing, and costs little."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clipbert_jax.weights.formats.attacks import all_attacks
from tests.clipbert_jax.weights.formats.pickle_attacks import CANARY, CODE, pickled

REPOSITORY = Path(__file__).parents[4]
PATTERNS = {title: pattern for title, (_, pattern) in all_attacks().items()}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Read all attacks in one process, which may grow by 1 GB."""
    folder = tmp_path_factory.mktemp("attacks")
    result = subprocess.run(
        [sys.executable, "-m", "tests.clipbert_jax.weights.formats.attacks", "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return {"left": [path.name for path in folder.iterdir()], **json.loads(result.stdout)}


@pytest.mark.parametrize("title", PATTERNS)
def test_attack_is_refused(title: str, report: dict[str, Any]) -> None:
    outcome = report["attacks"][title]
    assert outcome["kind"] == "UserError", outcome
    assert re.match(r"\d+\.weights ", outcome["message"]), outcome
    assert re.search(PATTERNS[title], outcome["message"]), outcome
    assert not outcome["events"]
    assert outcome["seconds"] < 20


def test_attacks_leave_nothing_and_need_little_memory(report: dict[str, Any]) -> None:
    assert report["left"] == ["sound.weights"]
    assert report["process"]["peak_mib"] < 1000


def test_there_are_many_attacks() -> None:
    assert len(PATTERNS) > 400


@pytest.mark.parametrize("title", ["os.system", "posix.system", "builtins.eval", "INST", "builtins.open"])
def test_payloads_are_live(title: str, tmp_path: Path) -> None:
    """Python's own reader runs them, here in a process that may be lost."""
    code = f"import pickle; pickle.loads({pickled(CODE[title][0])!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, stderr=subprocess.DEVNULL)
    assert [path.name for path in tmp_path.iterdir()] == [CANARY]
