"""Metrics files of interrupted and resumed runs."""

import json

from clipbert_jax.training.metrics_writer import MetricsWriter, read_metrics


def write(workdir, first_step, steps):
    writer = MetricsWriter(workdir, first_step=first_step)
    for step in steps:
        writer.write({"step": step, "loss": 1.0 / step})
    writer.close()


def test_a_resumed_run_has_every_step_once(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4])
    write(tmp_path, 2, [3, 4, 5])
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    write(tmp_path, 0, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    write(tmp_path, 2, [3])
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]


def test_numbers_that_json_lacks_stay_readable(tmp_path):
    writer = MetricsWriter(tmp_path, first_step=0)
    writer.write({"step": 1, "loss": float("nan")})
    writer.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": "nan"}
