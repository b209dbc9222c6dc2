"""A run that is killed and goes on ends bitwise where an unbroken run ends, batches included.

Killed twice: before the first checkpoint, and between two, then with worker processes.
"""

import signal
import time

import jax
import numpy as np
import pytest

from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from tests.experiments.small_runs import read_arrays, read_losses, start


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "demo"
    return prepare_synthetic_videos(path, num_train=10, num_validation=2, num_test=2, num_workers=0)


def go(data_dir, folder, **options):
    folder.mkdir(exist_ok=True)
    return start(data_dir, folder / "run", notes=folder / "batches.txt", **options)


def read_batches(folder):
    """Return step -> digests; the loader reads ahead, so a killed run has noted some more."""
    digests = {}
    for line in (folder / "batches.txt").read_text().splitlines():
        step, digest = line.split()
        digests.setdefault(int(step), set()).add(digest)
    return {step: digests[step] for step in range(10)}


def test_ten_steps_equal_five_a_kill_and_five(data_dir, tmp_path):
    unbroken = go(data_dir, tmp_path / "unbroken")
    killed = go(data_dir, tmp_path / "killed", signal="KILL", after_step=3)
    unbroken.ends_with(0)
    killed.ends_with(-signal.SIGKILL)

    killed = go(data_dir, tmp_path / "killed", signal="KILL", after_step=7, num_workers=2)
    output = killed.ends_with(-signal.SIGKILL)
    assert "continuing" not in output, "the first kill came before the first checkpoint"

    output = go(data_dir, tmp_path / "killed").ends_with(0)
    assert "continuing from step 5 of 10" in output

    assert read_batches(tmp_path / "killed") == read_batches(tmp_path / "unbroken")
    losses = [read_losses(folder / "run") for folder in (tmp_path / "killed", tmp_path / "unbroken")]
    assert losses[0] == losses[1]
    assert list(losses[0]) == list(range(1, 11))
    ours, theirs = (read_arrays(tmp_path / name / "run") for name in ("killed", "unbroken"))
    for item in ("parameters", "ema", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, ours[item], theirs[item])
    assert len(jax.tree.leaves(ours["optimizer"])) > 2 * 30, "Adam's moments are there"

    output = go(data_dir, tmp_path / "killed").ends_with(0)
    assert "nothing to do" in output


def test_a_notice_loses_no_step(data_dir, tmp_path):
    output = go(data_dir, tmp_path, signal="TERM", after_step=3).ends_with(75)
    (sent,) = [line for line in output.splitlines() if line.startswith("signal at ")]
    assert time.time() - float(sent.split()[-1]) < 30, "a spot machine may have no more"
    assert "stopped at step 3 of 10 and saved; the same command goes on from there" in output
    output = go(data_dir, tmp_path).ends_with(0)
    assert "continuing from step 3 of 10" in output
    assert list(read_losses(tmp_path / "run")) == list(range(1, 11))


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(data_dir, tmp_path):
    """From step 6 on no file may have more than 8 KB: records fit, the arrays of a checkpoint do not."""
    output = go(data_dir, tmp_path, after_step=6, max_file_bytes=8192).ends_with(2)
    assert "a checkpoint could not be saved" in output
    assert "the checkpoint of step 5 is still good" in output
    # Now nothing at all can be written any more.
    output = go(data_dir, tmp_path, after_step=7, max_file_bytes=1).ends_with(2)
    assert "continuing from step 5 of 10" in output
    (sentence,) = [line for line in output.splitlines() if line.startswith("clipbert: ")]
    assert "Traceback" not in output
    assert "metrics.jsonl cannot be written (File too large)" in sentence
    output = go(data_dir, tmp_path).ends_with(0)
    assert "continuing from step 5 of 10" in output
    assert list(read_losses(tmp_path / "run")) == list(range(1, 11))
