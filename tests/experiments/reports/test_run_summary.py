"""What the files of a run tell of it, whatever has happened to it."""

import math
import os
import time

import pytest

from clipbert_jax.errors import UserError
from experiments.reports.run_summary import read_run
from tests.experiments.run_files import COMMAND, record, start, write, write_lines, write_run


def let_pass(folder, seconds):
    then = time.time() - seconds
    for path in folder.iterdir():
        os.utime(path, (then, then))


def test_a_run_is_read_as_it_was_written(tmp_path):
    folder = write_run(tmp_path / "a", checkpoints=(20, 100))
    write_lines(
        folder / "metrics.jsonl",
        [record(10, 0.5), record(20, "nan"), {"step": 20, "validation/r1": 40.0, "validation/mean_rank": 3}],
    )
    write(folder / "results.json", {"metrics": {"1": {"r1": 3.0}}, "run": {}})
    write(folder / "results-validation.json", {"something": "else"})
    run = read_run(folder)
    assert (run.task, run.experiment, run.num_steps, run.step) == ("retrieval", "demo/retrieval", 100, 100)
    assert math.isnan(run.last_loss)
    assert run.validations == [{"step": 20, "r1": 40.0, "mean_rank": 3}]
    assert [checkpoint.step for checkpoint in run.checkpoints] == [20, 100]
    assert list(run.results) == ["results.json"]
    assert run.starts[0]["command"] == COMMAND


@pytest.mark.parametrize(
    ("state", "checkpoints", "ended", "age_seconds"),
    [
        ("done", (100,), {"ended": "2026-01-02", "how": "done"}, 0),
        ("running", (100,), {}, 0),  # the last validation
        ("done", (100,), {}, 10_000),
        ("stopped", (20,), {"ended": "2026-01-02", "how": "stopped"}, 0),
        ("failed", (20,), {"ended": "2026-01-02", "how": "failed: UserError: no space"}, 0),
        ("running", (20,), {}, 0),
        ("stopped", (20,), {}, 10_000),
    ],
)
def test_the_state_follows_from_checkpoints_ends_and_age(state, checkpoints, ended, age_seconds, tmp_path):
    folder = write_run(tmp_path / "a", checkpoints=checkpoints, starts=[start(**ended)])
    let_pass(folder, age_seconds)
    assert read_run(folder).state == state


@pytest.mark.parametrize(("num_validations", "state"), [(2, "stopped"), (3, "done")])
def test_an_early_stop_is_an_end(num_validations, state, tmp_path):
    folder = write_run(tmp_path / "a", train__early_stop_validations=2)
    scores = [{"step": 10 * place, "score": 50.0} for place in range(num_validations)]
    write_lines(folder / "validations.jsonl", scores)
    let_pass(folder, 10_000)
    assert read_run(folder).state == state


def test_the_best_validation_is_named_by_the_metric_that_decides(tmp_path):
    """In the first validation two metrics are the same; of an error the score has the other sign."""
    folder = write_run(tmp_path / "a")
    assert read_run(folder).best_validation is None
    lines = [
        {"step": 10, "validation/accuracy": 2.0, "validation/mse": 2.0},
        {"step": 20, "validation/accuracy": 1.0, "validation/mse": 1.5},
    ]
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(folder / "validations.jsonl", [{"step": 10, "score": -2.0}, {"step": 20, "score": -1.5}])
    assert read_run(folder).best_validation == ("mse", 1.5)


def test_a_run_that_was_killed_while_it_wrote_is_read_up_to_there(tmp_path):
    folder = write_run(tmp_path / "a", checkpoints=(10,))
    (folder / "checkpoints" / "20.orbax-checkpoint-tmp").mkdir()
    for name in ("metrics.jsonl", "validations.jsonl"):
        with (folder / name).open("ab") as file:
            file.write(b'{"step": 30, "loss": 0.\xff')
    (folder / "environment.json").write_text('{"starts": [')
    (folder / "results.json").write_text("{")
    run = read_run(folder)
    assert run.step == 20
    assert [checkpoint.step for checkpoint in run.checkpoints] == [10]
    assert (run.starts, run.results, run.experiment) == ([], {}, "retrieval")


def test_a_run_of_which_nothing_is_known_but_the_config_is_one(tmp_path):
    folder = write_run(tmp_path / "a", losses=())
    (folder / "environment.json").unlink()
    run = read_run(folder)
    assert (run.step, run.last_loss, run.best_validation) == (0, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "holds no run"),
        ('{"architectures": ["BertModel"]}', "is not the config of a run"),
        ('{"train": {"num_st', "is not valid JSON"),
    ],
)
def test_other_directories_are_refused(text, expected, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=expected):
        read_run(tmp_path)
