"""The specs for Kubernetes and SkyPilot, run with a stand-in for `clipbert`; the style of all scripts."""

from __future__ import annotations

import configparser
import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.experiments.launch.clusters import LAUNCH, Cluster

ROOT = Path(__file__).parents[3]
SHELLCHECK = Path(sys.executable).parent / "shellcheck"


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def jobset(variant):
    """Return the JobSet as its file says how to make it."""
    path = LAUNCH / "gke_jobset.yaml"
    if variant == "tpu":
        return yaml.safe_load(path.read_text())
    (script,) = re.findall(r"sed (-e .*) gke_jobset.yaml", path.read_text())
    done = subprocess.run(["bash", "-c", f"sed {script} {path}"], capture_output=True, text=True, check=True)
    return yaml.safe_load(done.stdout)


def check(spec, schema):
    jsonschema.validate(spec, json.loads((Path(__file__).parent / "schemas" / schema).read_text()))


def variable(entry, index):
    """Return name and value that a pod with this index has."""
    if "value" in entry:
        return entry["name"], entry["value"]
    path = entry["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    return entry["name"], str(index)


@pytest.mark.parametrize("variant", ["tpu", "gpu"])
def test_jobset_is_valid(variant):
    spec = jobset(variant)
    check(spec, "jobset.json")
    (container,) = spec["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert list(container["resources"]["limits"]) == [
        "google.com/tpu" if variant == "tpu" else "nvidia.com/gpu"
    ]
    assert ("env" in container) == (variant == "gpu")


def test_jobset_runs_the_same_command_in_every_pod_and_tells_it_which_it_is(cluster):
    spec = jobset("gpu")
    (replicated,) = spec["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    for index in range(job["parallelism"]):
        variables = dict(variable(entry, index) for entry in container["env"])
        assert cluster.run(*container["command"], **variables)[0] == 0

    attempts = cluster.attempts()
    assert job["parallelism"] == job["completions"] == len(attempts)
    assert len({json.dumps(attempt["arguments"]) for (attempt,) in attempts.values()}) == 1
    for (attempt,) in attempts.values():
        assert attempt["arguments"][0] == "train"
        name = spec["metadata"]["name"]
        first_pod = f"{name}-{replicated['name']}-0-0.{name}"
        assert re.fullmatch(rf"{first_pod}:\d+", attempt["variables"]["JAX_COORDINATOR_ADDRESS"])
        assert attempt["variables"]["JAX_NUM_PROCESSES"] == str(len(attempts))


def after(spec, code, *, is_disrupted=False):
    """Return what JobSet does after a pod has failed, by the rules of Kubernetes and JobSet."""
    (replicated,) = spec["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["backoffLimit"] == 0  # any failed pod fails the job
    reason = "BackoffLimitExceeded"
    for rule in job["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            matches = code in rule["onExitCodes"]["values"]
            assert rule["onExitCodes"]["operator"] == "In"
            assert rule["onExitCodes"]["containerName"] in {
                container["name"] for container in job["template"]["spec"]["containers"]
            }
        else:
            matches = is_disrupted
        if matches:
            reason = {"Count": reason, "FailJob": "PodFailurePolicy"}[rule["action"]]
            break
    for rule in spec["spec"]["failurePolicy"]["rules"]:
        if reason in rule["onJobFailureReasons"]:
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize("code", [75, 134, 137, 143])
def test_jobset_starts_again_what_was_saved_or_killed(code):
    assert after(jobset("tpu"), code) == "RestartJobSet"
    assert jobset("tpu")["spec"]["failurePolicy"]["maxRestarts"] == 50


@pytest.mark.parametrize("code", [1, 2, 127])
def test_jobset_ends_after_a_mistake_or_a_fault_unless_the_node_went(code):
    assert after(jobset("tpu"), code) == "FailJobSet"
    assert after(jobset("tpu"), code, is_disrupted=True) == "RestartJobSet"


@pytest.fixture
def skypilot():
    return yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())


def test_skypilot_task_is_valid(skypilot):
    check(skypilot, "skypilot.json")
    recovery = skypilot["resources"]["job_recovery"]
    assert 75 in recovery["recover_on_exit_codes"]
    assert not {1, 2} & set(recovery["recover_on_exit_codes"])
    assert not recovery.get("max_restarts_on_errors")  # these would be after any code
    assert {"/data", "/runs"} == set(skypilot["file_mounts"])


def test_skypilot_runs_the_same_command_on_every_node_and_tells_it_which_it_is(cluster, skypilot):
    given = {"CONFIG": "demo/retrieval", "RUN": "my 'first' run"}
    for rank in range(skypilot["num_nodes"]):
        node = {
            "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5\n",
            "SKYPILOT_NUM_NODES": str(skypilot["num_nodes"]),
            "SKYPILOT_NODE_RANK": str(rank),
        }
        assert cluster.run("bash", "-c", skypilot["run"], **{**skypilot["envs"], **given}, **node)[0] == 0
    for rank, (attempt,) in cluster.attempts().items():
        assert attempt["arguments"] == [
            *("train", "demo/retrieval"),
            *("--workdir", "/runs/my 'first' run", "--data-dir", "/data"),
        ]
        assert attempt["variables"]["JAX_COORDINATOR_ADDRESS"] == "10.0.0.4:8476"
        assert attempt["variables"]["JAX_NUM_PROCESSES"] == "2"
        assert attempt["variables"]["JAX_PROCESS_ID"] == rank
    assert cluster.num_attempts() == [1, 1]


def test_skypilot_sees_the_exit_code(cluster, skypilot):
    cluster.clipbert_does(75)
    assert cluster.run("bash", "-c", skypilot["run"], SKYPILOT_NODE_RANK="0", **skypilot["envs"])[0] == 75


SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), *LAUNCH.glob("*.sbatch"), "setup", "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: getattr(script, "name", f"skypilot-{script}"))
def test_shellcheck_has_no_complaint(script, skypilot):
    if isinstance(script, Path):
        assert os.access(script, os.X_OK)
        command, text = [SHELLCHECK, str(script)], None
    else:
        command, text = [SHELLCHECK, "--shell=bash", "--exclude=SC2155", "-"], skypilot[script]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_wheel_holds_and_the_docs_name_every_file():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = config["options.package_data"]["*"].split(", ")
    docs = (ROOT / "docs" / "clusters.md").read_text()
    files = [path for path in LAUNCH.iterdir() if path.is_file() and path.suffix != ".py"]
    assert len(files) >= 5
    assert (LAUNCH / "__init__.py").exists()  # only packages have data
    for path in files:
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path
        assert path.name in docs
