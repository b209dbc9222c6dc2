"""Checkpoints: what storage refuses becomes a sentence, and what was saved before stays good."""

import dataclasses
import errno
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.errors import TemporaryError, UserError
from clipbert_jax.training import checkpoint
from clipbert_jax.training.checkpoint import Checkpointer, ResumePoint
from clipbert_jax.training.saved_checkpoint import SavedCheckpoint
from clipbert_jax.training.step import TrainState
from clipbert_jax.training.watchdog import SAVE_SECONDS

from .conftest import make_batch


def state_at(step):
    weight = jnp.full((4, 4), float(step))
    return TrainState(
        params={"a/kernel": weight}, frozen={"b/mean": jnp.ones(3)}, opt_state=(weight,), step=jnp.int32(step)
    )


def save(checkpointer, step, best_step=None, **progress):
    checkpointer.save(state_at(step), ResumePoint(data={"next_step": step}, **progress), best_step=best_step)


def steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def test_the_newest_and_the_best_are_kept_and_nothing_else_is_left(tmp_path):
    checkpointer = Checkpointer(tmp_path, config={}, num_kept=2)
    for step in range(1, 7):
        save(checkpointer, step, best_step=2 if step > 2 else None)
    checkpointer.close()
    assert steps(tmp_path) == [2, 5, 6]
    assert list((tmp_path / "checkpoints" / "deleted").iterdir()) == []


def test_a_checkpoint_loses_its_name_before_it_is_deleted(tmp_path, monkeypatch):
    """A kill in the middle of a deletion leaves no half of a checkpoint under its number."""
    seen = []
    monkeypatch.setattr(
        checkpoint.shutil, "rmtree", lambda path, **options: seen.append((path.name, steps(tmp_path)))
    )
    checkpointer = Checkpointer(tmp_path, config={}, num_kept=1)
    for step in (1, 2, 3):
        save(checkpointer, step)
    checkpointer.close()
    assert {name.split(".")[0].split("-")[0] for name, _ in seen} >= {"1", "2"}
    assert all(int(name.split(".")[0].split("-")[0]) not in left for name, left in seen)
    monkeypatch.undo()
    Checkpointer(tmp_path, config={}).close()
    assert list((tmp_path / "checkpoints" / "deleted").iterdir()) == [], "the next start clears it away"


def test_what_was_saved_comes_back(tmp_path):
    checkpointer = Checkpointer(tmp_path, config={"seed": 1})
    save(checkpointer, 3, num_nonfinite=4)
    checkpointer.close()
    checkpointer = Checkpointer(tmp_path, config={"seed": 1})
    restored, progress = checkpointer.restore(jax.device_put(state_at(0), jax.devices()[0]))
    checkpointer.close()
    assert progress == ResumePoint(data={"next_step": 3}, num_nonfinite=4)
    assert int(restored.step) == 3
    np.testing.assert_array_equal(restored.params["a/kernel"], np.full((4, 4), 3.0))
    np.testing.assert_array_equal(restored.opt_state[0], np.full((4, 4), 3.0))
    assert SavedCheckpoint(tmp_path).config == {"seed": 1}


def test_storage_that_goes_away_is_named_with_what_is_still_good(tmp_path):
    checkpointer = Checkpointer(tmp_path, config={})
    save(checkpointer, 1)
    checkpointer._manager.wait_until_finished()
    kept = tmp_path / "kept"
    shutil.move(tmp_path / "checkpoints", kept)
    (tmp_path / "checkpoints").write_text("no directory")
    with pytest.raises(UserError, match=r"a checkpoint could not be saved.* in .*checkpoints"):
        save(checkpointer, 2)
    (tmp_path / "checkpoints").unlink()
    shutil.move(kept, tmp_path / "checkpoints")
    save(checkpointer, 3)
    checkpointer.close()
    assert steps(tmp_path) == [1, 3]


def test_a_save_that_fails_beside_the_training_is_one_sentence(tmp_path, monkeypatch, caplog):
    """Orbax would also log its traceback."""
    saves = "orbax.checkpoint._src.checkpointers.async_checkpointer._background_wait_for_commit_futures"

    def is_full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saves, is_full)
    checkpointer = Checkpointer(tmp_path, config={})
    save(checkpointer, 1)
    with pytest.raises(UserError, match=r"could not be saved .*No space left on device"):
        checkpointer.close()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_preemption_notices_are_left_to_the_loop(tmp_path, monkeypatch):
    """Were two counters asked for a moment to agree on, it would never come."""
    monkeypatch.setattr("orbax.checkpoint.utils.reached_preemption", pytest.fail)
    checkpointer = Checkpointer(tmp_path, config={})
    save(checkpointer, 1)
    checkpointer.close()
    assert steps(tmp_path) == [1]


def test_a_save_that_takes_too_long_asks_for_a_restart_before_the_watchdog_ends_it(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, config={})
    options = checkpointer._manager._options.async_options
    assert options is not None
    assert SAVE_SECONDS / 2 < options.timeout_secs < SAVE_SECONDS

    def too_long():
        raise TimeoutError

    monkeypatch.setattr(checkpointer._manager, "check_for_errors", too_long)
    with pytest.raises(TemporaryError, match=r"could not be saved in .* \(TimeoutError\)"):
        checkpointer.after_step(1, make_batch(0), {})


def test_slow_storage_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoint, "_SLOW_SECONDS", -1.0)
    checkpointer = Checkpointer(tmp_path, config={}, log=said.append)
    save(checkpointer, 1)
    checkpointer.close()
    assert "step 1: training waited" in said[0]
    assert "--train.save-every-steps" in said[0]


def test_begun_checkpoints_of_a_killed_process_are_cleared_away(tmp_path):
    checkpointer = Checkpointer(tmp_path, config={})
    save(checkpointer, 1)
    checkpointer.close()
    begun = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (begun / "parameters").mkdir(parents=True)
    assert steps(tmp_path) == [1]
    checkpointer = Checkpointer(tmp_path, config={})
    assert checkpointer.restore(jax.device_put(state_at(0), jax.devices()[0]))[1].next_step == 1
    save(checkpointer, 3)
    checkpointer.close()
    assert not begun.exists()


def test_a_state_of_other_parameters_is_refused(tmp_path):
    checkpointer = Checkpointer(tmp_path, config={})
    save(checkpointer, 1)
    checkpointer.close()
    other = dataclasses.replace(state_at(0), params={"c/kernel": jnp.zeros((4, 4))})
    checkpointer = Checkpointer(tmp_path, config={})
    with pytest.raises(UserError, match="c/kernel"):
        checkpointer.restore(other)
    checkpointer.close()
