"""A run directory is never mixed up with another config."""

import pytest

from clipbert_jax.errors import TemporaryError, UserError
from clipbert_jax.training import run_directory
from clipbert_jax.training.run_directory import RunLock, check_claim, claim, list_differences, read_config

CONFIG = {"train": {"seed": 0, "log_every_steps": 10}, "data": {"num_clips": 4}}


def test_a_new_run_is_claimed_and_the_same_config_goes_on(tmp_path):
    workdir = tmp_path / "runs" / "a"
    claim(workdir, CONFIG)
    claim(workdir, CONFIG)
    assert read_config(workdir) == CONFIG


def test_another_config_is_refused_with_every_field_that_differs(tmp_path):
    claim(tmp_path / "a", CONFIG)
    other = {"train": {"seed": 1, "log_every_steps": 10}, "data": {"num_clips": 8}}
    with pytest.raises(UserError) as error:
        claim(tmp_path / "a", other)
    assert "data.num_clips: 4 there, 8 now" in str(error.value)
    assert "train.seed: 0 there, 1 now" in str(error.value)
    assert read_config(tmp_path / "a") == CONFIG


def test_fields_that_change_no_result_may_differ(tmp_path):
    claim(tmp_path / "a", CONFIG)
    other = {"train": {"seed": 0, "log_every_steps": 1}, "data": {"num_clips": 4}}
    claim(tmp_path / "a", other, free=frozenset({"train.log_every_steps"}))


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="files that are not a run"):
        claim(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_reading_what_is_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"not valid JSON.*: restore it, or train again"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds a list, not a dict: restore it, or train again"):
        read_config(tmp_path)


def test_entries_of_lists_are_compared_one_by_one():
    old, new = {"mixture": [["a", 2.0], ["b", 1.0]]}, {"mixture": (("c", 2.0), ("d", 3.0))}
    assert list_differences(old, new, free=frozenset({"mixture.*.0"})) == ["mixture.1.1: 1.0 there, 3.0 now"]
    assert list_differences(old, {"mixture": []}) == [f"mixture: {old['mixture']!r} there, [] now"]


def test_a_second_training_waits_and_asks_to_be_started_again(tmp_path, monkeypatch):
    """No mistake of the user's: the first may have been on a host that is lost, whose lock ends soon."""
    monkeypatch.setattr(run_directory, "_QUIET_SECONDS", 0.1)
    monkeypatch.setattr(run_directory, "_LOCK_SECONDS", 0.1)
    lines = []
    with RunLock(tmp_path / "run", log=lines.append) as first:
        first.acquire()
        assert not lines
        with pytest.raises(TemporaryError, match="another process trains in"):
            RunLock(tmp_path / "run", log=lines.append).acquire()
        assert len(lines) == 1
        assert "is held by another process: waiting" in lines[0]
    with RunLock(tmp_path / "run") as second:
        second.acquire()


def test_a_new_run_is_locked_before_its_config_is_written(tmp_path, monkeypatch):
    """Two first starts would else write one file, and train with a config that is not there."""
    monkeypatch.setattr(run_directory, "_QUIET_SECONDS", 0.1)
    monkeypatch.setattr(run_directory, "_LOCK_SECONDS", 0.1)
    other = {"train": {"seed": 1}}
    with RunLock(tmp_path) as first:
        check_claim(tmp_path, CONFIG)
        check_claim(tmp_path, other)  # both have seen an empty directory
        first.acquire()
        with pytest.raises(TemporaryError):
            RunLock(tmp_path, log=lambda line: None).acquire()
        claim(tmp_path, CONFIG)
    with RunLock(tmp_path) as second:
        second.acquire()
        with pytest.raises(UserError, match="holds a run with another config"):
            claim(tmp_path, other)
    assert read_config(tmp_path) == CONFIG
