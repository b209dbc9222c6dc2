"""Several real processes train, validate, save, stop, die, resume and evaluate as one does."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from clipbert_jax.errors import TemporaryError, UserError
from clipbert_jax.training import run_directory
from clipbert_jax.training.run_directory import RunLock
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from experiments.cli import errors_as_sentences
from experiments.runs.train_run import train_run
from experiments.runtime.processes import _describe, joined_processes
from tests.experiments.small_run import experiment
from tests.experiments.small_runs import environments, read_losses, start, start_program, start_together

OPTIONS = {"num_validations": 2, "num_steps": 8}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "demo"
    return prepare_synthetic_videos(path, num_train=12, num_validation=5, num_test=5, num_workers=0)


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """The run of one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    start(data_dir, workdir, **OPTIONS).ends_with(0)
    return workdir


def end_together(processes, code):
    try:
        return [process.ends_with(code) for process in processes]
    finally:
        for process in processes:
            process.process.kill()


def assert_same_run(workdir, expected):
    ours, theirs = read_losses(workdir), read_losses(expected)
    assert list(ours) == list(theirs)
    np.testing.assert_allclose([*ours.values()], [*theirs.values()], rtol=1e-5)
    lines = [(folder / "validations.jsonl").read_text() for folder in (workdir, expected)]
    assert lines[0] == lines[1]


def evaluate(environment, workdir, out):
    arguments = ["evaluate", str(workdir), "--num-clips", "1", "2", "--out", str(out), "--batch-size", "2"]
    return start_program("from experiments.cli import main; main()", environment, arguments)


def test_two_processes_stop_together_and_one_goes_on(data_dir, alone, tmp_path):
    """The notice comes to process 1; process 0 saves."""
    workdir = tmp_path / "run"
    processes = start_together(2, data_dir, workdir, signal="TERM", after_step=3, process=1, **OPTIONS)
    outputs = end_together(processes, 75)
    (sent,) = [line for line in outputs[1].splitlines() if line.startswith("signal at ")]
    assert time.time() - float(sent.split()[-1]) < 30, "a spot machine may have no more"
    assert "training in" in outputs[0]
    assert "2 cpu device(s) of 2 processes" in outputs[0]
    assert "and saved; the same command goes on from there" in outputs[0]
    assert "step" not in outputs[1].replace("Reached preemption sync point, step", ""), (
        "only process 0 prints"
    )
    output = start(data_dir, workdir, **OPTIONS).ends_with(0)
    assert "continuing from step" in output
    assert_same_run(workdir, alone)

    together = [evaluate(environment, workdir, tmp_path / "two") for environment in environments(2)]
    outputs = end_together(together, 0)
    assert "results:" in outputs[0]
    assert "results:" not in outputs[1]
    evaluate({}, workdir, tmp_path / "one").ends_with(0)
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["metrics"] == two["metrics"]
    scores = [next((tmp_path / name).glob("*2-clips*.npz")) for name in ("one", "two")]
    one, two = (np.load(path) for path in scores)
    for name in one.files:
        if np.issubdtype(one[name].dtype, np.floating):
            np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(two[name], one[name])


def test_when_one_dies_the_other_ends_and_says_so(data_dir, alone, tmp_path):
    workdir = tmp_path / "run"
    survivor, victim = start_together(2, data_dir, workdir, signal="KILL", after_step=6, process=1, **OPTIONS)
    victim.ends_with(-signal.SIGKILL)
    start_time = time.monotonic()
    output = survivor.ends_with(75)
    assert time.monotonic() - start_time < 60
    assert "process 0 of 2: another process is gone" in output
    assert "The same command goes on from the newest checkpoint" in output
    assert "Traceback" not in output
    outputs = end_together(start_together(2, data_dir, workdir, **OPTIONS), 0)
    assert "continuing from step" in outputs[0]
    assert_same_run(workdir, alone)


@pytest.mark.parametrize(("main", "victim"), [("time.sleep(300)", 0), ("while True: sum(range(1000))", 1)])
def test_who_waits_for_nobody_ends_too_when_another_is_not_heard_of(main, victim):
    """JAX aborts it, wherever its main thread is."""
    program = f"""
import os, signal, time
import jax
from experiments.runtime import processes
processes.HEARTBEAT_SECONDS = 5
with processes.joined_processes(has_notices=True):
    jax.devices()
    if jax.process_index() == {victim}:
        os.kill(os.getpid(), signal.SIGKILL)
    {main}
"""
    started = [start_program(program, values) for values in environments(2)]
    started.pop(victim).ends_with(-signal.SIGKILL)
    output = end_together(started, 75)[0]
    assert f"process {1 - victim} of 2: another process is gone" in output


def test_when_one_hangs_all_write_down_where_they_stand(tmp_path):
    """The others wait for it, in a collective; none ends before they have said so."""
    program = f"""
import pathlib, threading
import jax
from jax.experimental import multihost_utils
from clipbert_jax.training import watchdog
from experiments.runtime.processes import joined_processes
watchdog._OTHERS_SECONDS = 10
def hang_here():
    threading.Event().wait()
with joined_processes(has_notices=True):
    index = jax.process_index()
    watchdog.COMPILE_SECONDS = watchdog.MIN_SECONDS = 2 if index == 1 else 3600
    with watchdog.Watchdog(pathlib.Path({str(tmp_path)!r})) as dog:
        multihost_utils.sync_global_devices("begin")
        dog.beat("the begin")
        if index == 1:
            hang_here()
        multihost_utils.sync_global_devices("never")
"""
    started = [start_program(program, values) for values in environments(2)]
    end_together(started, 75)
    waiting, hanging = ((tmp_path / f"stacks-process-{index}.txt").read_text() for index in range(2))
    assert "process 1 says: no progress for" in waiting
    assert "sync_global_devices" in waiting
    assert "in hang_here" in hanging


@pytest.mark.slow
def test_one_two_four_processes_and_back_are_one_run(data_dir, alone, tmp_path):
    workdir = tmp_path / "run"
    start(data_dir, workdir, signal="TERM", after_step=2, **OPTIONS).ends_with(75)
    for count, step in ((2, 4), (4, 6)):
        processes = start_together(
            count, data_dir, workdir, signal="TERM", after_step=step, process=count - 1, **OPTIONS
        )
        end_together(processes, 75)
    start(data_dir, workdir, num_workers=2, **OPTIONS).ends_with(0)
    assert_same_run(workdir, alone)


@pytest.mark.slow
def test_fsdp_over_processes_is_the_same_run_too(data_dir, alone, tmp_path):
    workdir = tmp_path / "run"
    processes = start_together(
        2, data_dir, workdir, signal="TERM", after_step=4, process=0, fsdp=2, **OPTIONS
    )
    end_together(processes, 75)
    end_together(start_together(4, data_dir, workdir, fsdp=4, **OPTIONS), 0)
    assert_same_run(workdir, alone)


def test_a_fault_of_one_process_ends_all_with_its_code_and_its_reason(data_dir, tmp_path):
    """And neither waits for the other, nor asks for a restart, which would not help."""
    options = {"after_step": 3, "process": 1, "fail": "the video v7 is broken", **OPTIONS}
    for output in end_together(start_together(2, data_dir, tmp_path / "run", **options), 2):
        assert "the video v7 is broken" in output
        assert "another process is gone" not in output
        assert "Traceback" not in output


def test_what_only_the_first_process_looks_at_ends_all_alike(data_dir, tmp_path):
    (tmp_path / "file").write_text("no run")
    for output in end_together(start_together(2, data_dir, tmp_path, **OPTIONS), 2):
        assert "files that are not a run" in output
        assert "Traceback" not in output


def test_a_first_start_beside_another_one_writes_nothing_but_waits(data_dir, tmp_path, monkeypatch, capsys):
    """Or they would write one config over the other."""
    monkeypatch.setattr(run_directory, "_QUIET_SECONDS", 0.1)
    monkeypatch.setattr(run_directory, "_LOCK_SECONDS", 0.1)
    with RunLock(tmp_path) as other:
        other.acquire()
        with pytest.raises(TemporaryError, match="another process trains in"):
            train_run(experiment(data_dir, batch_size=16), tmp_path)
    assert "is held by another process: waiting" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_user_s_mistake_ends_all_processes_with_one_sentence(tmp_path):
    processes = start_together(2, tmp_path / "no data", tmp_path / "run")
    for output in end_together(processes, 2):
        assert "Traceback" not in output
        assert "no data" in output


@pytest.mark.parametrize("seconds", [0, pytest.param(35, marks=pytest.mark.slow)])
def test_the_others_wait_while_the_first_process_takes_its_time_and_end_as_it_does(seconds):
    """It may wait for the lock of a lost host, longer than a collective does; and that asks for a restart."""
    program = f"""
import time
from clipbert_jax.errors import TemporaryError
from experiments.runtime.processes import joined_processes, on_first_process
def act():
    time.sleep({seconds})
    raise TemporaryError("the lock is held")
with joined_processes():
    on_first_process(lambda: None)
    on_first_process(act)
"""
    started = [start_program(program, values) for values in environments(2)]
    for output in end_together(started, 75):
        assert "the lock is held" in output
        assert "Traceback" not in output


def test_a_device_that_is_too_small_ends_without_a_traceback(capsys):
    said = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."
    sentence, code = _describe(jax.errors.JaxRuntimeError(said))
    assert code == 2
    assert "--train.num-accumulation-steps" in sentence
    with pytest.raises(SystemExit) as ended, errors_as_sentences():
        raise jax.errors.JaxRuntimeError(said)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"clipbert: {sentence}\n"
    with pytest.raises(jax.errors.JaxRuntimeError), errors_as_sentences():
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault of the program")


def test_a_barrier_of_a_save_that_fails_is_a_process_that_is_gone():
    error = TimeoutError("Timed out while waiting for async_write_complete barrier.")
    sentence, code = _describe(error)
    assert code == 75
    assert "another process is gone" in sentence


def test_an_address_alone_names_no_processes():
    """Each would train alone, in the same directory."""
    program = (
        "from experiments.runtime.processes import joined_processes\nwith joined_processes(): print('inside')"
    )
    environment = {"JAX_COORDINATOR_ADDRESS": "host:1"}
    output = start_program(program, environment).ends_with(1)
    assert "JAX_NUM_PROCESSES and JAX_PROCESS_ID" in output
    assert "inside" not in output


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID"),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "host:1",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": "2",
            },
            "JAX_PROCESS_ID=2 .* JAX_NUM_PROCESSES=2",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "host", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "JAX_COORDINATOR_ADDRESS=host must be host:port",
        ),
    ],
)
def test_variables_that_name_no_processes_are_refused(monkeypatch, values, sentence):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence), joined_processes():
        pytest.fail("the block must not run")
