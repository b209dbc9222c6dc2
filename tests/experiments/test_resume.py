"""A run that is killed and goes on ends bitwise where an unbroken run ends, batches included.

Killed twice: before the first checkpoint, and between two, then with worker processes.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from clipbert_jax.training.metrics_writer import read_metrics
from data_pipelines.corpus.embedded import prepare_embedded

SCRIPT = Path(__file__).with_name("train_and_die.py")
ROOT = SCRIPT.parents[2]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "demo"
    return prepare_embedded(path, num_train=10, num_validation=2, num_test=2, num_workers=0)


def start(data_dir, folder, *, kill_after_step=0, num_workers=0):
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    arguments = [data_dir, folder / "run", folder / "batches.txt", kill_after_step, num_workers]
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_batches(folder):
    """Return step -> digests; the loader reads ahead, so a killed run has noted some more."""
    digests = {}
    for line in (folder / "batches.txt").read_text().splitlines():
        step, digest = line.split()
        digests.setdefault(int(step), set()).add(digest)
    return {step: digests[step] for step in range(10)}


def read_checkpoint(folder):
    with ocp.CheckpointManager((folder / "run" / "checkpoints").resolve()) as manager:
        assert manager.latest_step() == 10
        restore = ocp.args.StandardRestore()
        return manager.restore(10, args=ocp.args.Composite(parameters=restore, optimizer=restore))


@pytest.mark.filterwarnings("ignore:.*sharding.*:UserWarning")  # Orbax on restoring without a target
def test_ten_steps_equal_five_a_kill_and_five(data_dir, tmp_path):
    unbroken = start(data_dir, tmp_path / "unbroken")
    killed = start(data_dir, tmp_path / "killed", kill_after_step=3)
    output, _ = unbroken.communicate(timeout=300)
    assert unbroken.returncode == 0, output
    output, _ = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, output

    killed = start(data_dir, tmp_path / "killed", kill_after_step=7, num_workers=2)
    output, _ = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, output
    assert "continuing" not in output, "the first kill came before the first checkpoint"

    resumed = start(data_dir, tmp_path / "killed")
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    assert "continuing from step 5 of 10" in output

    assert read_batches(tmp_path / "killed") == read_batches(tmp_path / "unbroken")
    losses = [
        [(record["step"], record["loss"], record["grad_norm"]) for record in read_metrics(folder / "run")]
        for folder in (tmp_path / "killed", tmp_path / "unbroken")
    ]
    assert losses[0] == losses[1]
    assert [step for step, *_ in losses[0]] == list(range(1, 11))
    ours, theirs = read_checkpoint(tmp_path / "killed"), read_checkpoint(tmp_path / "unbroken")
    for item in ("parameters", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, ours[item], theirs[item])
    assert len(jax.tree.leaves(ours["optimizer"])) > 2 * 30, "Adam's moments are there"

    again = start(data_dir, tmp_path / "killed")
    output, _ = again.communicate(timeout=300)
    assert "nothing to do" in output
