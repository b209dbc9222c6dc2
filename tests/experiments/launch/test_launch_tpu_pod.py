"""The script for TPU VMs, run with stand-ins for gcloud and for what it installs."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from tests.experiments.launch.clusters import LAUNCH, OPTIONS, STAND_INS, Cluster

SCRIPT = LAUNCH / "tpu_pod.sh"
FIRST_ATTEMPTS = ("clipbert-0/0", "clipbert-1/0")


@pytest.fixture
def cluster(tmp_path):
    """A project without a slice."""
    cluster = Cluster(tmp_path)
    cluster.variables |= {
        "TPU": "my-tpu",
        "ZONE": "my-zone",
        "ACCELERATOR": "v5litepod-8",
        "RUNTIME": "v2-alpha-tpuv5-lite",
        "PAUSE_SECONDS": "0",
    }
    return cluster


@pytest.fixture
def pod(cluster):
    """A slice of two workers on which clipbert is installed."""
    cluster.note("slice", "ACTIVE")
    for worker in "01":
        programs = cluster.notes / "home" / worker / "clipbert_env" / "bin"
        programs.mkdir(parents=True)
        shutil.copy(STAND_INS / "clipbert", programs)
        (programs.parent / "installed").touch()
    return cluster


def run(cluster, **variables):
    return cluster.run(SCRIPT, "run", "clipbert", *OPTIONS, **variables)


def test_it_requests_installs_and_runs_the_same_command_on_every_worker(cluster):
    returned, output = run(cluster, MOUNT='touch "$NOTES/mounted $WORKER"')
    assert returned == 0, output
    assert "--spot --accelerator-type=v5litepod-8" in cluster.noted("created")
    attempts = cluster.attempts()
    assert list(attempts) == ["0", "1"]
    for worker, (attempt,) in attempts.items():
        home = cluster.notes / "home" / worker
        assert attempt["arguments"] == OPTIONS
        assert (cluster.notes / f"mounted {worker}").exists()
        assert (home / "clipbert_jax" / "experiments" / "cli.py").exists()
        assert f"{home}/clipbert_jax[tpu]\n" in cluster.noted(f"uv-{worker}")
        assert f"worker-{worker}: hello from clipbert-{worker}" in output
        assert "hello" in (home / "clipbert_logs" / f"worker-{worker}.log").read_text()


@pytest.mark.parametrize("code", [75, 137])
def test_what_was_saved_or_killed_starts_again(pod, code):
    pod.clipbert_does(code, 0)
    returned, output = run(pod)
    assert returned == 0
    assert f"exit code {code}, starting again" in output
    assert pod.num_attempts() == [2, 2]
    assert all(attempt["arguments"] == OPTIONS for both in pod.attempts().values() for attempt in both)


@pytest.mark.parametrize(("code", "seen"), [(2, 2), (1, 3), (127, 3)])
def test_a_mistake_or_a_fault_is_the_end(pod, code, seen):
    pod.clipbert_does(code)
    assert run(pod)[0] == seen
    assert pod.num_attempts() == [1, 1]


def test_a_mount_that_fails_is_the_end(pod):
    returned, output = run(pod, MOUNT="false")
    assert returned == 3
    assert "cannot mount the shared filesystem with: false" in output
    assert pod.num_attempts() == []


def test_restarts_have_an_end(pod):
    pod.clipbert_does(75)
    returned, output = run(pod, MAX_RESTARTS="1")
    assert returned == 75
    assert "after 1 restarts" in output
    assert pod.num_attempts() == [2, 2]


def test_a_slice_that_was_taken_away_is_replaced(pod):
    pod.clipbert_does("lose the slice", 0)
    returned, output = run(pod)
    assert returned == 0, output
    assert pod.num_attempts() == [2, 2]
    actions = [line.split()[3] for line in pod.noted("gcloud").splitlines()]
    assert [action for action in actions if action not in ("list", "ssh")] == ["delete", "create", "scp"]


def test_it_attaches_to_what_outlived_the_connection(pod):
    pod.clipbert_does("wait")
    first = pod.start(SCRIPT, "run", "clipbert", *OPTIONS)
    pod.wait_for(*FIRST_ATTEMPTS)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

    returned, output = pod.run(SCRIPT, "run", "clipbert", "train", "something/else")
    assert returned == 2
    assert "another command is running: clipbert train demo/retrieval" in output

    second = pod.start(SCRIPT, "run", "clipbert", *OPTIONS)
    assert second.stdout
    greetings = (line for line in second.stdout if "hello from" in line)
    assert {next(greetings) for _ in range(2)} == {f"worker-{i}: hello from clipbert-{i}\n" for i in (0, 1)}
    pod.note("go", "")
    second.communicate(timeout=20)
    assert second.returncode == 0
    assert pod.num_attempts() == [1, 1]


def test_stop_lets_the_command_save(pod):
    pod.clipbert_does("wait")
    first = pod.start(SCRIPT, "run", "clipbert", *OPTIONS, MAX_RESTARTS="0")
    pod.wait_for(*FIRST_ATTEMPTS)
    assert pod.run(SCRIPT, "stop")[0] == 0
    first.communicate(timeout=20)
    assert first.returncode == 75


@pytest.mark.parametrize("arguments", [(), ("run",), ("restart",)])
def test_nothing_to_do_is_said(cluster, arguments):
    returned, output = cluster.run(SCRIPT, *arguments)
    assert returned == 2
    assert "run" in output
    assert not cluster.noted("gcloud")
