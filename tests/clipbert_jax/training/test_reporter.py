"""What a training says of itself: records that add up, and lines that a terminal or a file can take."""

import math
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from clipbert_jax.training import reporter as reporter_module
from clipbert_jax.training.compilations import Compilations
from clipbert_jax.training.logging_config import LoggingConfig
from clipbert_jax.training.metrics_writer import read_metrics
from clipbert_jax.training.optimizer import OptimizerConfig
from clipbert_jax.training.prefetch import Prefetcher
from clipbert_jax.training.reporter import Reporter
from clipbert_jax.training.run_config import RunConfig
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.utilization import Utilization

from .conftest import make_batch

ROOT = Path(__file__).parents[3]
BATCH = make_batch(0, num_videos=4)
ADVICE = "use more workers"
UNKNOWN = Utilization(None, None, "not known")


def metrics(loss, *, grad_norm=1.0, **more):
    values = {"loss": loss, "grad_norm": grad_norm, **more}
    return {name: jnp.float32(value) for name, value in values.items()}


class Input(Prefetcher):
    def __init__(self):
        self.wait_seconds = 0.0


class Counter(Compilations):
    count = 0

    def __init__(self):
        pass


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Return a function: metrics of steps of 2 seconds -> records and lines; every 2 steps are logged."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(reporter_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def run(steps, *, utilization=UNKNOWN, batches=None, compilations=None, project=None, **optimizer):
        said, source, counter = [], Input(), Counter()
        config = RunConfig(
            train=TrainConfig(num_steps=len(steps), batch_size=4, log_every_steps=2),
            optimizer=OptimizerConfig(**optimizer),
            logging=LoggingConfig(wandb=project),
            resolved={"train": {"seed": 0}},
        )
        reporter = Reporter(
            config, tmp_path, 0, source, counter, utilization, lambda rate: ADVICE, said.append
        )
        for step, of_step in enumerate(steps, start=1):
            clock.now += 2.0
            batch = batches[step - 1] if batches else BATCH
            counter.count = compilations[step - 1] if compilations else 1
            source.wait_seconds = 0.5 * step
            reporter.after_step(step, batch, of_step)
        reporter.close()
        return read_metrics(tmp_path), [line for line in said if line != ADVICE]

    return run


def test_a_record_tells_of_the_steps_since_the_one_before(report):
    records, said = report([metrics(9, grad_norm=9), metrics(3, grad_norm=1), metrics(1, grad_norm=3)] * 2)
    assert [record["step"] for record in records] == [1, 2, 4, 6]
    third = records[2]
    assert (third["loss"], third["grad_norm"]) == (5.0, 6.0)  # of steps 3 and 4
    assert (third["step_seconds"], third["videos_per_second"]) == (2.0, 2.0)
    assert third["input_wait_share"] == 0.25
    assert "gradient 6" in said[-2]
    assert "2 s/step  2.0 videos/s  input wait 25%  0:00:04 left" in said[-2]


def test_updates_that_were_left_out_are_counted_and_not_averaged(report):
    lost = metrics(math.nan, grad_norm=math.inf, is_skipped=1)
    made = metrics(2, grad_norm=3, is_skipped=0)
    records, said = report([made, made, lost, made, lost, lost])
    assert [record["num_skipped"] for record in records] == [0, 0, 1, 2]
    assert [record["loss"] for record in records] == [2.0, 2.0, 2.0, "nan"]
    assert records[2]["grad_norm"] == 3.0
    assert ["skipped" in line for line in said if line.startswith("step")] == [False, False, True, True]


def test_utilization_is_of_the_steps_and_their_texts(report):
    """A peak of 100 a second for 2 seconds a step: steps of 20 and 60 operations use a fifth of it."""
    short, long = make_batch(0, num_videos=4), make_batch(1, num_videos=8)
    utilization = Utilization(lambda batch: 20 if batch is short else 60, 100.0)
    records, said = report([metrics(1)] * 4, utilization=utilization, batches=[short, short, short, long])
    assert [record["mfu"] for record in records] == pytest.approx([0.1, 0.1, 0.2])
    assert "MFU 20%" in said[-1]


def test_records_go_to_weights_and_biases_on_request(report, monkeypatch):
    sent = []

    class Sink:
        def __init__(self, project, workdir, config):
            sent.append((project, config))

        def write(self, record):
            sent.append(record)

        def close(self):
            sent.append("closed")

    monkeypatch.setattr(reporter_module, "WandbRun", Sink)
    records, _ = report([metrics(1)] * 2, project="videos")
    assert sent == [("videos", {"train": {"seed": 0}}), *records, "closed"]


def test_an_unknown_utilization_is_left_out_and_explained_once(report):
    records, said = report([metrics(1)] * 6)
    assert not any("mfu" in record for record in records)
    assert not any("MFU" in line for line in said)
    assert said.count("not known") == 1


def test_compilations_are_counted(report):
    records, _ = report([metrics(1)] * 6, compilations=[1, 1, 1, 3, 3, 4])
    assert [record["num_compilations"] for record in records] == [1, 0, 2, 1]


def test_learning_rates_that_differ_are_named(report):
    constant = {"schedule": "constant", "warmup_share": 0.0}
    records, said = report([metrics(1)] * 2, pixel_encoder_learning_rate=1e-5, **constant)
    assert records[1]["transformer_learning_rate"] == pytest.approx(5e-5)
    assert records[1]["pixel_encoder_learning_rate"] == pytest.approx(1e-5)
    assert "rate 1.0e-05 (pixel_encoder, grid_encoder), 5.0e-05 (transformer)" in said[-1]
    _, said = report([metrics(1)] * 2, **constant)
    assert "rate 5.0e-05  " in said[-1]


SHOW_A_BAR = """
import sys
from clipbert_jax.training.progress_bar import ProgressBar, is_terminal
bar = ProgressBar(first_step=0, num_steps=8) if is_terminal() else None
for step in range(1, 5):
    print(f"step {step} is a line of its own [with brackets]")
    if bar:
        bar.advance(step)
        bar.show(f"loss {step}.25")
print("this is an error", file=sys.stderr)
if bar:
    bar.close()
"""


def show_a_bar(*, on_terminal, **environment):
    """Return what a program with a bar writes to its output, and to its errors, which are a file."""
    reader, writer = pty.openpty() if on_terminal else os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", SHOW_A_BAR],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", **environment},
        stdout=writer,
        stderr=subprocess.PIPE,
        check=True,
    )
    os.close(writer)
    written = b""
    try:
        while chunk := os.read(reader, 1 << 16):
            written += chunk
    except OSError:  # the end of a terminal
        pass
    os.close(reader)
    return written.decode(), done.stderr.decode()


def test_a_terminal_has_a_bar_below_the_lines():
    written, errors = show_a_bar(on_terminal=True, TERM="xterm-256color", NO_COLOR="")
    assert "step 4/8" in written
    assert "loss 4.25" in written
    assert "\x1b[" in written
    assert "\x1b[?25h" in written.rpartition("\x1b[?25l")[2], "the cursor is shown again"
    for step in range(1, 5):
        assert f"step {step} is a line of its own [with brackets]" in written
    assert errors == "this is an error\n"


def test_colours_can_be_turned_off():
    written, _ = show_a_bar(on_terminal=True, TERM="xterm-256color", NO_COLOR="1")
    assert "step 4/8" in written
    assert "\x1b[3" not in written.replace("\x1b[3m", ""), "foreground colours"


@pytest.mark.parametrize(
    ("on_terminal", "environment"),
    [(False, {"TERM": "xterm-256color", "FORCE_COLOR": "1"}), (True, {"TERM": "dumb"})],
)
def test_files_pipes_and_dumb_terminals_get_plain_lines(on_terminal, environment):
    written, _ = show_a_bar(on_terminal=on_terminal, **environment)
    assert written.splitlines() == [
        f"step {step} is a line of its own [with brackets]" for step in range(1, 5)
    ]
