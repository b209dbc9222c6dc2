"""The loop on the host: it keeps the devices busy, compiles once a bucket, and knows what it waits for."""

import dataclasses
import functools
import os
import signal
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.training import loop, reporter, watchdog
from clipbert_jax.training.compilations import Compilations
from clipbert_jax.training.loop import train
from clipbert_jax.training.metrics_writer import read_metrics
from clipbert_jax.training.prefetch import Prefetcher
from clipbert_jax.training.run_config import RunConfig
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.validation import ValidationResult
from clipbert_jax.training.watchdog import Watchdog

from .conftest import TASK, make_batch, small_config

NUM_VIDEOS = 2


class Batches:
    """Batches whose texts have these lengths in turn."""

    def __init__(self, lengths):
        self.lengths, self.position, self.asked = lengths, 0, []

    def __next__(self):
        batch = make_batch(self.position, num_videos=NUM_VIDEOS)
        length = self.lengths[self.position % len(self.lengths)]
        self.position += 1
        return dataclasses.replace(
            batch, text_ids=batch.text_ids[..., :length], text_mask=batch.text_mask[..., :length]
        )

    def get_state(self):
        return {"next_step": self.position}

    def close(self):
        pass

    def starting_at(self, step):
        return self

    def name_examples(self, step):
        return []

    def explain_wait(self, rate):
        self.asked.append(rate)
        return "more workers"


def run(workdir, data, *, model, num_steps, log_every=4, train_options=None, **options):
    """Train and return what is said."""
    said = []
    settings = {"num_steps": num_steps, "batch_size": NUM_VIDEOS, "log_every_steps": log_every}
    config = RunConfig(train=TrainConfig(**settings, **(train_options or {})))
    mesh = make_mesh(jax.devices()[:1])
    train(model, TASK, data, config, workdir, mesh, log=said.append, **options)
    return said


def test_each_length_of_texts_is_compiled_once(tmp_path, monkeypatch):
    made = []
    make_train_step = loop.make_train_step
    monkeypatch.setattr(
        loop, "make_train_step", lambda *a, **k: made.append(make_train_step(*a, **k)) or made[0]
    )
    model = ClipBert(small_config(), TASK.head, rngs=nnx.Rngs(0))
    said = run(tmp_path, Batches([6, 6, 4, 6, 4, 4]), model=model, num_steps=8)
    assert made[0]._cache_size() == 2
    assert [line for line in said if "compiles" in line] == [
        "step 3 compiles, as the first with texts of 4 tokens"
    ]
    assert not [line for line in said if "compiled again" in line]


def test_a_compilation_without_a_new_length_is_reported():
    def train_step(state, batch):
        raise AssertionError

    said, announced, batch = [], [], make_batch(0)
    options = {"on_compile": lambda: announced.append(1), "log": said.append}
    Compilations(train_step, **options).after_step(0, batch, {})  # a step that does not tell

    train_step._cache_size = lambda: num_programs
    compilations, counts = Compilations(train_step, **options), []
    for step, num_programs in enumerate([1, 1, 2, 2, 3], start=1):  # noqa: B007, what the step tells
        compilations.before_dispatch(step, batch)
        compilations.after_step(step, batch, {})
        counts.append(compilations.count)
    assert counts == [1, 1, 2, 2, 3]
    assert announced == [1], "only the first one could be known before"
    assert [line.partition(" although")[0] for line in said] == [
        "step 3 compiled again",
        "step 5 compiled again",
    ]


class Clocked:
    """A device and an input that take a time for each step and batch, by a clock that nothing else moves."""

    def __init__(self, monkeypatch, *, step_seconds, input_seconds):
        self.now, self.ready_at, self.events = 0.0, [0.0], []
        self.step_seconds, self.input_seconds = step_seconds, input_seconds
        monkeypatch.setattr(reporter, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(loop, "Prefetcher", lambda batches, put: Input(self))
        monkeypatch.setattr(loop, "make_train_step", lambda *args, **options: self.dispatch)
        block_until_ready, device_get = jax.block_until_ready, jax.device_get
        monkeypatch.setattr(jax, "block_until_ready", lambda tree: self.wait(tree) or block_until_ready(tree))
        monkeypatch.setattr(jax, "device_get", lambda tree: self.wait(tree) or device_get(tree))

    def dispatch(self, state, batch):
        step = len(self.ready_at)
        self.events.append(f"dispatch {step}")
        self.ready_at.append(max(self.now, self.ready_at[-1]) + self.step_seconds)
        return state, {"loss": jnp.array(float(step)), "grad_norm": jnp.zeros(())}

    def wait(self, tree):
        """Let the host wait for the metrics of a step, or of several."""
        last = tree[-1] if isinstance(tree, list) and tree else tree
        if isinstance(last, dict) and "loss" in last:
            step = int(last["loss"])
            self.events.append(f"wait {step}")
            self.now = max(self.now, self.ready_at[step])


class Input(Prefetcher):
    """A prefetcher: workers put a batch into its queue every `input_seconds`, but stop while it is full."""

    def __init__(self, clocked):
        self.clocked, self.wait_seconds, self.state = clocked, 0.0, {"next_step": 0}
        self.ready_at = [clocked.input_seconds, 2 * clocked.input_seconds]

    @property
    def is_empty(self):
        return self.ready_at[0] > self.clocked.now

    def __next__(self):
        clocked, ready_at = self.clocked, self.ready_at.pop(0)
        self.wait_seconds += max(0.0, ready_at - clocked.now)
        clocked.now = max(clocked.now, ready_at)
        self.ready_at.append(max(clocked.now, self.ready_at[-1]) + clocked.input_seconds)
        return make_batch(0, num_videos=NUM_VIDEOS)

    def close(self):
        pass


def one_number():
    """Return a model that has one."""
    model = nnx.Module()
    model.weight = nnx.Param(jnp.zeros(()))
    return model


@pytest.fixture
def clocked_run(tmp_path, monkeypatch):
    """Return a function that trains 20 steps by such a clock; it returns clock, data and what is said."""

    def start(**seconds):
        clocked, data = Clocked(monkeypatch, **seconds), Batches([6])
        return clocked, data, run(tmp_path, data, model=one_number(), num_steps=20, log_every=10)

    return start


@pytest.fixture
def plain_run(tmp_path, monkeypatch):
    """Return a function that trains, by steps that only count, and returns what is said."""

    def step(state, batch):
        state = dataclasses.replace(state, step=state.step + 1)
        return state, {"loss": jnp.float32(state.step), "grad_norm": jnp.zeros(())}

    monkeypatch.setattr(loop, "make_train_step", lambda *args, **options: step)
    return functools.partial(run, tmp_path, Batches([6]), model=one_number())


def test_the_next_step_is_dispatched_before_the_last_one_is_waited_for(clocked_run, tmp_path):
    clocked, _, _ = clocked_run(step_seconds=1.0, input_seconds=0.1)
    events = clocked.events
    for step in range(2, 10):
        assert events.index(f"dispatch {step + 1}") < events.index(f"wait {step}"), "the device would be idle"
    assert events.index("dispatch 8") > events.index("wait 6"), "batches would pile up on the device"
    assert [record["input_wait_share"] for record in read_metrics(tmp_path)][1:] == [0.0, 0.0]
    assert clocked.now == pytest.approx(20.1)


def test_only_waiting_of_an_idle_device_counts(clocked_run, tmp_path):
    """Input of 4 s for steps of 3 s: the device is idle a quarter of the time, and could do a third more."""
    clocked, data, said = clocked_run(step_seconds=3.0, input_seconds=4.0)
    records = read_metrics(tmp_path)
    assert [record["input_wait_share"] for record in records][1:] == pytest.approx([0.25, 0.25])
    assert [record["videos_per_second"] for record in records][1:] == pytest.approx([NUM_VIDEOS / 4] * 2)
    assert data.asked == pytest.approx([NUM_VIDEOS / 3]), "once"
    assert said.count("more workers") == 1
    assert clocked.now == pytest.approx(20 * 4.0 + 3.0)


def test_input_that_keeps_up_needs_no_advice(clocked_run):
    _, _, said = clocked_run(step_seconds=4.0, input_seconds=3.9)
    assert "more workers" not in said


def test_a_stop_while_validating_and_an_early_stop_lose_no_record(plain_run, tmp_path):
    """Validations of steps 4 and 8, records of every third."""
    train_options = {"num_validations": 3, "early_stop_validations": 1}

    def validate(parameters, after_batch):
        if not (tmp_path / "is_stopped").exists():
            (tmp_path / "is_stopped").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        after_batch()
        return ValidationResult(score=0.0, metrics={})

    def go_on():
        return plain_run(num_steps=12, log_every=3, train_options=train_options, validate=validate)

    def steps():
        return [record["step"] for record in read_metrics(tmp_path) if "loss" in record]

    with pytest.raises(SystemExit):
        go_on()
    assert steps() == [1, 3, 4]
    assert any("stopped at step 8 of 12" in line for line in go_on())
    assert steps() == [1, 3, 4, 5, 6, 8]


@pytest.mark.parametrize("part", ["_Manager", "Checkpointer.restore"])
def test_storage_that_hangs_at_the_start_ends_the_run(plain_run, tmp_path, monkeypatch, part):
    """Opening the checkpoints, and restoring one."""
    plain_run(num_steps=1)
    has_given_up = threading.Event()

    def hang(*arguments, **options):
        assert has_given_up.wait(20), "the watchdog does not watch"
        raise InterruptedError

    monkeypatch.setattr(f"clipbert_jax.training.checkpoint.{part}", hang)
    monkeypatch.setattr(watchdog, "COMPILE_SECONDS", 0.3)
    monkeypatch.setattr(watchdog, "MIN_SECONDS", 0.3)
    watched = functools.partial(Watchdog, give_up=has_given_up.set, check_seconds=0.02)
    monkeypatch.setattr(loop, "Watchdog", watched)
    with pytest.raises((InterruptedError, UserError)):
        plain_run(num_steps=2)
    assert "test_loop.py" in (tmp_path / "stacks-process-0.txt").read_text()
