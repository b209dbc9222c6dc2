"""Compiled programs: private, found again by the next process, and never in the way of a run."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from clipbert_jax.errors import UserError
from experiments.runtime.compilation_cache import MAX_BYTES, default_directory, use_compilation_cache

ROOT = Path(__file__).parents[3]

TRAIN = """
import json
from jax._src import monitoring
import jax, numpy as np
from flax import nnx
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import make_mesh, put_batch
from clipbert_jax.training.step import make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig
from experiments.runtime.compilation_cache import use_compilation_cache
from tests.clipbert_jax.training.conftest import TASK, make_batch, small_config

events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
use_compilation_cache()
mesh, optimizer = make_mesh(), make_optimizer(OptimizerConfig(), num_steps=3)
model = ClipBert(small_config(dropout_rate=0.1), TASK.head, rngs=nnx.Rngs(0))
model_def, state = make_train_state(model, optimizer, mesh, TrainConfig())
step = make_train_step(model_def, TASK, optimizer, mesh, TrainConfig())
losses = []
for seed in range(3):
    state, metrics = step(state, put_batch(make_batch(seed, num_videos=2), mesh))
    losses.append(float(metrics["loss"]).hex())
hits = events.count("/jax/compilation_cache/cache_hits")
misses = events.count("/jax/compilation_cache/cache_misses")
print(json.dumps({"losses": losses, "hits": hits, "misses": misses}))
"""


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    """A user without JAX's variables and without a cache; JAX's settings are put back at the end."""
    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_enable_compilation_cache",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for name, value in before.items():
        jax.config.update(name, value)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
def test_the_next_process_does_not_compile_and_trains_to_the_same_bits(tmp_path):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")
    }
    environment |= {
        "XDG_CACHE_HOME": str(tmp_path),
        "XLA_FLAGS": "",
        "PYTHONPATH": str(ROOT),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def train():
        done = subprocess.run(
            [sys.executable, "-c", TRAIN], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first, second = train(), train()
    assert first["hits"] == 0
    assert first["misses"] > 5
    assert second["misses"] == 0
    assert second["hits"] == first["misses"]
    assert second["losses"] == first["losses"]
    assert len(set(first["losses"])) == 3


def test_the_directory_is_private_whatever_the_umask(cache_home):
    old = os.umask(0)
    try:
        use_compilation_cache()
    finally:
        os.umask(old)
    directory = cache_home / "clipbert_jax" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(directory)
    assert [mode(path) for path in (directory, directory.parent, cache_home)] == [0o700] * 3
    assert jax.config.jax_compilation_cache_max_size == MAX_BYTES


@pytest.mark.parametrize("writers", [0o770, 0o707, 0o777])
@pytest.mark.parametrize("part", ["compiled", "."])
def test_a_directory_that_others_may_write_into_is_not_used(cache_home, writers, part):
    directory = default_directory()
    directory.mkdir(parents=True)
    directory.chmod(0o700)
    directory.parent.chmod(0o700)
    opened = directory if part == "compiled" else directory.parent
    opened.chmod(writers)
    said = []
    use_compilation_cache(said.append)
    assert f"chmod 700 {opened}" in said[0]
    assert jax.config.jax_compilation_cache_dir is None
    opened.chmod(0o700)
    use_compilation_cache()


def test_a_link_to_an_open_directory_is_not_used(cache_home, tmp_path):
    elsewhere = tmp_path / "private" / "open"
    elsewhere.mkdir(parents=True)
    elsewhere.chmod(0o777)
    default_directory().parent.mkdir(parents=True)
    default_directory().symlink_to(elsewhere)
    said = []
    use_compilation_cache(said.append)
    assert f"chmod 700 {elsewhere}" in said[0]
    assert jax.config.jax_compilation_cache_dir is None


def give_away(path, monkeypatch):
    """Let a directory belong to another user than the one who runs this."""
    if os.geteuid() == 0:
        os.chown(path, 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)


def test_a_directory_of_another_user_is_not_used(cache_home, monkeypatch):
    use_compilation_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    give_away(default_directory(), monkeypatch)
    said = []
    use_compilation_cache(said.append)
    assert "belongs to another user" in said[0]
    assert "JAX_COMPILATION_CACHE_DIR" in said[0]
    assert jax.config.jax_compilation_cache_dir is None


def test_a_run_goes_on_without_where_nothing_can_be_written(cache_home, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = []
    use_compilation_cache(said.append)
    assert len(said) == 1
    assert str(tmp_path / "file") in said[0]
    assert "JAX_COMPILATION_CACHE_DIR" in said[0]
    assert jax.config.jax_compilation_cache_dir is None


def test_jax_can_be_told_to_keep_nothing(cache_home):
    jax.config.update("jax_enable_compilation_cache", False)
    use_compilation_cache()
    assert not cache_home.exists()


def test_a_directory_that_the_user_names_is_used_as_it_is(cache_home, tmp_path):
    chosen = tmp_path / "team"
    chosen.mkdir()
    chosen.chmod(0o770)
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(chosen)
    assert mode(chosen) == 0o770
    assert not cache_home.exists()
    assert jax.config.jax_compilation_cache_max_size != MAX_BYTES


def test_a_new_directory_that_the_user_names_is_private(cache_home, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "new"))
    use_compilation_cache()
    assert mode(tmp_path / "new") == 0o700


def test_a_named_directory_that_anybody_fills_is_refused(cache_home, tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "tmp"))
    with pytest.raises(UserError, match=r"JAX_COMPILATION_CACHE_DIR"):
        use_compilation_cache()


def test_a_named_directory_that_somebody_made_in_a_public_place_is_refused(cache_home, tmp_path, monkeypatch):
    public, made = tmp_path / "tmp", tmp_path / "tmp" / "jax"
    made.mkdir(parents=True, mode=0o755)
    give_away(made, monkeypatch)
    jax.config.update("jax_compilation_cache_dir", str(made))
    public.chmod(0o755)
    use_compilation_cache()  # of a colleague, in a place that is not open to all
    public.chmod(0o1777)
    with pytest.raises(UserError, match="JAX_COMPILATION_CACHE_DIR"):
        use_compilation_cache()


def test_programs_whose_writing_was_cut_off_are_deleted(cache_home):
    directory = default_directory()
    directory.mkdir(parents=True, mode=0o700)
    directory.parent.chmod(0o700)
    for name in ("whole-cache", "whole-atime", "cut-cache", "other"):
        (directory / name).write_bytes(b"12345678")
    use_compilation_cache()
    assert {path.name for path in directory.iterdir()} == {"whole-cache", "whole-atime", "other", ".lockfile"}
