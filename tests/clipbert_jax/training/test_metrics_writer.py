"""Metrics files of interrupted and resumed runs."""

import json
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from clipbert_jax.errors import UserError
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


def read_events(path):
    """Return the events of a file: each between its length and two checksums."""
    data, events, place = path.read_bytes(), [], 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        events.append(Event.FromString(data[place + 12 : place + 12 + length]))
        place += 12 + length + 4
    return events


def test_tensorboard_gets_all_numbers_and_where_a_run_went_on(tmp_path):
    writer = MetricsWriter(tmp_path, first_step=2)
    writer.write({"step": 3, "loss": 0.5, "learning_rate/heads": 0.25})
    writer.write({"step": 4, "loss": float("nan")})
    writer.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    version, start, third, fourth = read_events(path)
    assert version.file_version == "brain.Event:2"
    assert start.session_log.status == start.session_log.START
    assert start.step == 3
    assert third.step == 3
    assert {value.tag: value.simple_value for value in third.summary.value} == {
        "loss": 0.5,
        "learning_rate/heads": 0.25,
    }
    assert fourth.summary.value[0].simple_value != fourth.summary.value[0].simple_value


def fill(writer):
    for step in range(1000):  # the first ones fit into a buffer
        writer.write({"step": step, "loss": 1.0})


def test_a_disk_that_fills_up_ends_the_run(tmp_path, monkeypatch):
    full = Path("/dev/full").open("wb")  # noqa: SIM115
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: full)
    writer = MetricsWriter(tmp_path, first_step=0)
    with pytest.raises(UserError, match=r"tensorboard cannot be written .No space left on device."):
        fill(writer)
    with pytest.raises(UserError, match="tensorboard cannot be written"):
        writer.close()


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
