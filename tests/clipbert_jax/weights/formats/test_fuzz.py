"""A hundred broken files of each kind; `python -m tests.fuzz.weights_campaign` tries five thousand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.workers.isolation import Failure
from tests.fuzz.weights_attack import Mutant, Outcome
from tests.fuzz.weights_campaign import LIMIT_SECONDS, Report, make_seeds, mutants, run_campaign

REPOSITORY = Path(__file__).parents[4]


@pytest.mark.parametrize("number", [100, pytest.param(200, marks=pytest.mark.slow)])
def test_broken_files_give_arrays_or_a_sentence(number: int) -> None:
    kinds = list(make_seeds())
    report = run_campaign(kinds, range(number), seed=1, num_workers=2)
    assert not [(mutant.number, mutant.kind, reason) for mutant, reason in report.failed]
    assert report.num_files == number * len(kinds)
    assert report.slowest_seconds < LIMIT_SECONDS
    for kind, verdicts in report.verdicts.items():
        assert verdicts["UserError"] > number / 2, kind
        if "posix" not in kind and "eval" not in kind and "STACK_GLOBAL" not in kind:
            assert verdicts["arrays"], kind  # the mutations are not so crude that nothing is left to read


def test_mutants_follow_from_the_seed(tmp_path: Path) -> None:
    first, again, other = (
        [mutant.data for mutant in mutants(["torch zip", "safetensors"], range(20), seed, tmp_path)]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(set(first)) > 35


def test_what_must_not_be_is_a_failure(tmp_path: Path) -> None:
    report, mutant = Report(), Mutant(0, "torch zip", "flip_bits", b"", tmp_path)
    for result in (Outcome("arrays"), Outcome("KeyError", "'a'"), Failure("took longer than 20 s")):
        report.add(mutant, result)
    assert [reason for _, reason in report.failed] == ["KeyError: 'a'", "took longer than 20 s"]


@pytest.mark.parametrize("deed", ["os.system('true')", "import this", "open('x', 'w')", "eval('1')"])
def test_deeds_are_seen(deed: str, tmp_path: Path) -> None:
    watch = "from tests.clipbert_jax.weights.formats.watched_reading import Watch"
    before = f"{watch}; import os; watch = Watch(); watch.is_on = True"
    after = "watch.is_on = False; os.write(2, str(len(watch.events)).encode())"
    result = subprocess.run(
        [sys.executable, "-c", f"{before}; {deed}; {after}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stderr) > 0
