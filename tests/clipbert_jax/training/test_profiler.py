"""A trace of some steps."""

import gzip
import json

import jax
import jax.numpy as jnp

from clipbert_jax.training.logging_config import ProfileConfig
from clipbert_jax.training.profiler import Profiler

from .conftest import make_batch


def train(profiler, first_step, last_step):
    """Do some steps as the loop does."""
    double = jax.jit(lambda x: x @ x)
    for step in range(first_step, last_step + 1):
        profiler.before_step(step)
        metrics = {"loss": double(jnp.ones((8, 8)))[0, 0]}
        profiler.after_step(step, make_batch(0), metrics)
    profiler.close()


def traced_steps(workdir):
    (path,) = (workdir / "profile").glob("plugins/profile/*/*.trace.json.gz")
    assert list(path.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "train")


def test_the_steps_that_are_asked_for_are_traced(tmp_path):
    said = []
    config = ProfileConfig(first_step=7, num_steps=2)
    train(Profiler(config, tmp_path, first_step=5, log=said.append), 6, 10)
    assert traced_steps(tmp_path) == [7, 8]
    (line,) = said
    assert line.startswith(f"profile of steps 7 to 8 in {tmp_path / 'profile'}: ")
    assert "xprof --port" in line
    assert "https://ui.perfetto.dev" in line


def test_by_default_the_first_steps_are_left_out(tmp_path):
    train(Profiler(ProfileConfig(), tmp_path, first_step=5, log=lambda line: None), 6, 20)
    assert traced_steps(tmp_path) == [9, 10, 11]


def test_a_trace_that_training_cuts_short_is_kept(tmp_path):
    said = []
    config = ProfileConfig(first_step=2, num_steps=100)
    train(Profiler(config, tmp_path, first_step=0, log=said.append), 1, 4)
    assert traced_steps(tmp_path) == [2, 3, 4]
    assert said[0].startswith("profile of steps 2 to 4 in ")


def test_a_training_too_short_for_it_says_so(tmp_path):
    said = []
    train(Profiler(ProfileConfig(first_step=30), tmp_path, first_step=0, log=said.append), 1, 4)
    assert said == ["no profile was taken: these were not the steps from 30 on"]
    assert not (tmp_path / "profile").exists()


def test_without_a_config_nothing_is_traced(tmp_path):
    said = []
    train(Profiler(None, tmp_path, first_step=0, log=said.append), 1, 6)
    assert said == []
    assert not (tmp_path / "profile").exists()
