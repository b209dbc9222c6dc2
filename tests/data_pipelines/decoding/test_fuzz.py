"""A hundred broken files; `make fuzz` tries ten thousand."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.decoding.decode import read_frames
from data_pipelines.decoding.examine import examine
from data_pipelines.decoding.video import FrameIndex
from tests.fuzz.attack import HIDDEN_DAMAGE, Mutant, Outcome, attack
from tests.fuzz.campaign import LIMIT_SECONDS, Report, run_campaign
from tests.fuzz.mutations import mutate
from tests.fuzz.seeds import make_seeds


@pytest.fixture(scope="module")
def seeds() -> dict[str, bytes]:
    return make_seeds()


@pytest.mark.parametrize("number", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_broken_files_cost_no_more_than_their_own_verdict(number: int) -> None:
    report = run_campaign(range(number), seed=0, num_workers=2)
    assert not [(mutant.number, mutant.name, reason) for mutant, reason in report.failed]
    assert report.verdicts.total() == number
    assert (
        report.verdicts["ok"] > number / 15
    )  # the mutations are not so crude that nothing gets past the header
    assert report.verdicts["unreadable"] > number / 15
    assert not report.verdicts[HIDDEN_DAMAGE]
    assert report.slowest_seconds < LIMIT_SECONDS


def test_files_are_sound_before_they_are_broken(seeds: dict[str, bytes]) -> None:
    outcomes = {name: attack(Mutant(0, name, "", data)).verdict for name, data in seeds.items()}
    assert set(outcomes.values()) == {"ok"}, outcomes
    assert len(seeds) >= 18


def test_mutations_follow_from_the_seed_and_change_the_file(seeds: dict[str, bytes]) -> None:
    data = seeds["h264.mp4"]
    made = [mutate(data, np.random.default_rng([0, number]))[0] for number in range(100)]
    assert made == [mutate(data, np.random.default_rng([0, number]))[0] for number in range(100)]
    assert len(set(made)) > 90
    assert sum(mutant == data for mutant in made) < 5


def test_the_examination_of_a_broken_file_is_always_the_same(seeds: dict[str, bytes]) -> None:
    for number in range(12):
        data, _ = mutate(seeds["b_frames.mp4"], np.random.default_rng([1, number]))
        assert examine(data).health == examine(data).health


def test_frames_that_are_others_alone_than_among_all_are_noticed(
    seeds: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(data: bytes, wanted: np.ndarray, index: FrameIndex) -> np.ndarray:
        return read_frames(data, wanted if len(wanted) > 3 else np.maximum(wanted - 1, 0), index)

    monkeypatch.setattr("tests.fuzz.attack.read_frames", shifted)
    assert attack(Mutant(0, "h264.mp4", "", seeds["h264.mp4"])).verdict == HIDDEN_DAMAGE


def test_a_broken_promise_is_noticed(seeds: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.fuzz.attack.read_frames", lambda data, wanted, index: np.zeros((3, 1, 1, 3), np.uint8)
    )
    mutant = Mutant(0, "h264.mp4", "", seeds["h264.mp4"])
    outcome = attack(mutant)
    assert outcome.verdict == "exception"
    report = Report()
    report.add(mutant, outcome)
    report.add(mutant, Outcome("ok"))
    assert [reason for _, reason in report.failed] == [outcome.problem]
