"""The batch script for Slurm, run with stand-ins for srun and scontrol."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from tests.experiments.launch.clusters import LAUNCH, OPTIONS, Cluster

SCRIPT = LAUNCH / "slurm.sbatch"


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    cluster.note("job_state", "RUNNING")
    cluster.variables |= {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "8"}
    return cluster


def run(cluster, **variables):
    return cluster.run(SCRIPT, "clipbert", *OPTIONS, **variables)


def is_requeued(cluster):
    return "requeue 7" in cluster.noted("scontrol")


def test_every_task_runs_the_same_command(cluster):
    assert run(cluster)[0] == 0
    attempts = cluster.attempts()
    assert list(attempts) == ["0", "1", "2"]
    assert all(attempt["arguments"] == OPTIONS for (attempt,) in attempts.values())
    assert "--cpus-per-task=8" in cluster.noted("srun")
    assert not is_requeued(cluster)


@pytest.mark.parametrize("code", [75, 134, 137])
def test_what_was_saved_or_killed_is_requeued(cluster, code):
    cluster.clipbert_does(code)
    run(cluster)
    assert is_requeued(cluster)


@pytest.mark.parametrize("code", [1, 2, 127])
def test_a_mistake_or_a_fault_ends_the_job(cluster, code):
    cluster.clipbert_does(code)
    returned, output = run(cluster)
    assert returned == code
    assert f"ended with exit code {code}" in output
    assert not is_requeued(cluster)


def test_a_job_that_was_cancelled_stays_so(cluster):
    cluster.clipbert_does(75)
    cluster.note("job_state", "CANCELLED")
    returned, output = run(cluster)
    assert returned == 75
    assert "not put back" in output
    assert not is_requeued(cluster)


def test_restarts_have_an_end(cluster):
    cluster.clipbert_does(75)
    returned, output = run(cluster, SLURM_RESTART_COUNT="50")
    assert returned == 75
    assert "after 50 restarts" in output
    assert not is_requeued(cluster)


def test_a_signal_to_the_script_does_not_end_it_before_the_tasks(cluster):
    cluster.clipbert_does("wait")
    job = cluster.start(SCRIPT, "clipbert", *OPTIONS)
    cluster.wait_for("clipbert-0/0", "clipbert-1/0", "clipbert-2/0")
    os.kill(job.pid, signal.SIGTERM)
    time.sleep(0.2)
    assert job.poll() is None
    cluster.note("orders", "[75]")
    cluster.note("go", "")
    job.communicate(timeout=20)
    assert job.returncode == 0


def test_the_script_does_not_make_tasks_deaf_to_the_signal(cluster):
    cluster.clipbert_does("wait")
    job = cluster.start(SCRIPT, "python3", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    job.communicate(timeout=20)
    assert is_requeued(cluster)  # killed, 143


def test_it_asks_for_a_task_per_gpu_that_sees_all_gpus():
    text = SCRIPT.read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, flags=re.MULTILINE))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert "gpus-per-task" not in asked
    assert re.fullmatch(r"TERM@\d+", asked["signal"])
    assert "requeue" in asked
    first_command = re.search(r"^[^#\n]", text, flags=re.MULTILINE)
    assert first_command
    assert text.rindex("\n#SBATCH") < first_command.start()  # Slurm reads no further
