"""A run directory is never mixed up with another config."""

import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.training import run_directory
from clipbert_jax.training.run_directory import RunLock, claim, read_config

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
    with pytest.raises(UserError, match="holds something that is no run"):
        claim(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_reading_what_is_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_config(tmp_path)


def test_a_second_training_waits_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "_LOCK_SECONDS", 0.1)
    with RunLock(tmp_path) as first:
        first.acquire()
        with pytest.raises(UserError, match="another process trains in"):
            RunLock(tmp_path).acquire()
    with RunLock(tmp_path) as second:
        second.acquire()
