"""Validation during training: when, which checkpoint is the best, when to stop; also after a kill."""

import dataclasses
import math
import os
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from clipbert_jax.errors import CONTINUE_EXIT_CODE, UserError
from clipbert_jax.training import loop, reporter
from clipbert_jax.training.loop import train
from clipbert_jax.training.metrics_writer import read_metrics
from clipbert_jax.training.run_config import RunConfig
from clipbert_jax.training.saved_checkpoint import SavedCheckpoint, has_checkpoint
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.validation import (
    ValidationHistory,
    ValidationLog,
    ValidationResult,
    validation_steps,
)

from .conftest import TASK, make_batch


@pytest.mark.parametrize(
    ("num_steps", "num_validations", "expected"),
    [
        (10, 0, set()),
        (10, 1, {10}),
        (10, 3, {3, 7, 10}),
        (10, 10, set(range(1, 11))),
        (3, 20, {1, 2, 3}),
        (600, 4, {150, 300, 450, 600}),
    ],
)
def test_validations_are_spread_over_the_steps_and_include_the_last(num_steps, num_validations, expected):
    assert validation_steps(num_steps, num_validations) == expected


def history_of(*scores: float) -> ValidationHistory:
    history = ValidationHistory()
    for step, score in enumerate(scores, start=1):
        history = history.after(step, score)
    return history


def test_the_best_is_the_first_of_the_highest_scores():
    assert history_of(1.0, 3.0, 2.0, 3.0) == ValidationHistory(
        best_step=2, best_score=3.0, num_since_best=2, last_step=4
    )
    assert history_of(-3.0, -1.0) == ValidationHistory(best_step=2, best_score=-1.0, last_step=2)


def test_a_score_that_is_not_a_number_is_never_the_best():
    assert history_of(math.nan, 0.0, math.nan) == ValidationHistory(
        best_step=2, best_score=0.0, num_since_best=1, last_step=3
    )
    assert history_of(math.nan) == ValidationHistory(num_since_best=1, last_step=1)


def test_patience_counts_validations_since_the_best():
    assert not history_of(2.0, 1.0, 3.0, 1.0).has_stopped(2)
    assert history_of(2.0, 1.0, 2.0).has_stopped(2)
    assert history_of(math.nan, math.nan).has_stopped(2)
    assert not history_of(2.0, *[1.0] * 50).has_stopped(0)


def test_the_log_survives_a_kill_and_forgets_what_is_done_again(tmp_path):
    log = ValidationLog(tmp_path)
    assert log.history(100) == ValidationHistory()
    for step, score in ((2, 1.0), (4, math.nan), (6, 3.0)):
        log.add(step, score)
    with (tmp_path / "validations.jsonl").open("a") as file:
        file.write('{"step": 8, "sc')
    assert log.history(8) == ValidationHistory(best_step=6, best_score=3.0, last_step=6)
    assert log.history(5) == ValidationHistory(best_step=2, best_score=1.0, num_since_best=1, last_step=4)
    log.drop_after(4)
    log.add(6, 0.5)
    assert log.history(8) == ValidationHistory(best_step=2, best_score=1.0, num_since_best=2, last_step=6)


class Batches:
    """The same batch for ever; the step `num_batches` from the start finds no more, as if it were killed."""

    def __init__(self, num_batches):
        self.num_batches, self.batch = num_batches, make_batch(0)

    def __next__(self):
        if self.next_step == self.end:
            raise UserError("killed")
        self.next_step += 1
        return self.batch

    def get_state(self):
        return {"next_step": self.next_step}

    def close(self):
        pass

    def starting_at(self, step):
        self.next_step, self.end = step, step + self.num_batches
        return self

    def name_examples(self, step):
        return []

    def explain_wait(self, rate):
        return "more workers"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that trains a number, which counts the steps, and returns what is said.

    Nothing is compiled, and a clock goes on by a second with each step and 50 with each validation. Saving
    and continuing are as they are.
    """
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(reporter, "time", clock)

    def make_train_step(*args, **options):
        def step(state, batch):
            clock.now += 1.0
            params = {"weight": state.params["weight"] + 1}
            metrics = {"loss": jnp.zeros(()), "grad_norm": jnp.zeros(())}
            return dataclasses.replace(state, params=params, step=state.step + 1), metrics

        return step

    monkeypatch.setattr(loop, "make_train_step", make_train_step)

    def run(scores, *, num_batches=100, stop_in_validation_of=0, **options):
        """Train 12 steps with validations after 2, 4 ..., whose scores are given by step."""
        validated = []

        def validate(parameters, after_batch):
            step = int(parameters["weight"])
            validated.append(step)
            if step == stop_in_validation_of:
                os.kill(os.getpid(), signal.SIGTERM)
            after_batch()
            clock.now += 50.0
            return ValidationResult(score=scores[step], metrics={"r1": scores[step]})

        model = nnx.Module()
        model.weight = nnx.Param(jnp.zeros(()))
        settings = {"num_steps": 12, "num_validations": 6, "save_every_steps": 100, "num_kept_checkpoints": 1}
        said = []
        train(
            model,
            TASK,
            Batches(num_batches),
            RunConfig(train=TrainConfig(**{**settings, **options})),
            tmp_path,
            make_mesh(),
            validate=validate,
            log=said.append,
        )
        return "\n".join(said), validated

    return run


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


SCORES = {2: 1.0, 4: 5.0, 6: 2.0, 8: 5.0, 10: math.nan, 12: 3.0}


def test_the_best_checkpoint_is_kept_beside_the_newest(run, tmp_path):
    said, validated = run(SCORES)
    assert validated == [2, 4, 6, 8, 10, 12]
    assert saved(tmp_path) == [4, 12]
    assert "step  4  validation: r1 5  (best so far)" in said
    assert "done: checkpoint 12, the best on validation is 4" in said
    assert SavedCheckpoint(tmp_path).step == 4
    assert SavedCheckpoint(tmp_path, step="best").step == 4
    assert SavedCheckpoint(tmp_path, step="newest").step == 12
    assert SavedCheckpoint(tmp_path, step=12).step == 12
    with pytest.raises(UserError, match=r"no checkpoint of step 8; it has \[4, 12\]"):
        SavedCheckpoint(tmp_path, step=8)
    expected = {"weight": jax.ShapeDtypeStruct((), jnp.float32)}
    assert SavedCheckpoint(tmp_path).load_parameters(expected)["weight"] == 4


def test_validations_are_records_of_the_run(run, tmp_path):
    run(SCORES)
    records = [record for record in read_metrics(tmp_path) if "validation/r1" in record]
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10, 12]
    assert [record["validation/r1"] for record in records] == [1.0, 5.0, 2.0, 5.0, "nan", 3.0]


def test_the_time_of_validations_does_not_count_as_that_of_steps(run, tmp_path):
    run(SCORES, log_every_steps=5)
    records = [record for record in read_metrics(tmp_path) if "loss" in record]
    assert [record["step"] for record in records] == [1, 5, 10, 12]
    assert [record["step_seconds"] for record in records] == pytest.approx([1.0] * 4)


def test_without_patience_left_the_run_ends_and_stays_ended(run, tmp_path):
    said, validated = run(SCORES, early_stop_validations=2)
    assert validated == [2, 4, 6, 8]
    assert saved(tmp_path) == [4, 8]
    assert "no new best in 2 validations: stopped at step 8 of 12" in said
    assert "done: checkpoint 8, the best on validation is 4" in said
    said, validated = run(SCORES, early_stop_validations=2)
    assert "has stopped early at step 8; nothing to do" in said
    assert validated == []
    assert saved(tmp_path) == [4, 8]


@pytest.mark.parametrize("num_batches", [5, 6, 7])
def test_a_continued_run_validates_as_if_it_had_never_been_killed(run, tmp_path, num_batches):
    scores = {**SCORES, 8: 4.0}
    with pytest.raises(UserError, match="killed"):
        run(scores, num_batches=num_batches)
    assert has_checkpoint(tmp_path)
    said, validated = run(scores)
    last = num_batches - num_batches % 2
    assert f"continuing from step {last} of 12" in said
    assert validated == list(range(last + 2, 13, 2))
    assert saved(tmp_path) == [4, 12]
    assert SavedCheckpoint(tmp_path).step == 4


@pytest.mark.parametrize("step", [6, 12])
def test_a_validation_that_a_stop_kept_from_ending_is_done_when_the_run_goes_on(run, tmp_path, step):
    scores = {**SCORES, step: 9.0}
    with pytest.raises(SystemExit) as stopped:
        run(scores, stop_in_validation_of=step)
    assert stopped.value.code == CONTINUE_EXIT_CODE
    assert max(saved(tmp_path)) == step, "the step is not lost"
    said, validated = run(scores)
    assert validated == list(range(step, 13, 2))
    assert f"done: checkpoint 12, the best on validation is {step}" in said
    assert SavedCheckpoint(tmp_path).step == step
    said, validated = run(scores)
    assert "has all 12 steps; nothing to do" in said
    assert validated == []


def test_patience_is_not_renewed_by_a_kill(run, tmp_path):
    with pytest.raises(UserError, match="killed"):
        run(SCORES, num_batches=7, early_stop_validations=2)
    said, validated = run(SCORES, early_stop_validations=2)
    assert validated == [8]
    assert "no new best in 2 validations: stopped at step 8" in said


def test_a_run_without_validation_has_no_best(run, tmp_path):
    assert not has_checkpoint(tmp_path)
    run({}, num_validations=0)
    assert SavedCheckpoint(tmp_path).step == 12
    with pytest.raises(UserError, match="has no best checkpoint, as the run was never validated"):
        SavedCheckpoint(tmp_path, step="best")


def test_a_kill_before_the_first_checkpoint_leaves_none(run, tmp_path):
    with pytest.raises(UserError, match="killed"):
        run(SCORES, num_batches=1)
    assert (tmp_path / "checkpoints").is_dir()
    assert not has_checkpoint(tmp_path)
