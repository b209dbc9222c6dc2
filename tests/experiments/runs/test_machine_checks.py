"""A machine that cannot hold a training is refused before anything is written."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import shutil

import jax
import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import model_shapes
from experiments.configs import EXPERIMENTS
from experiments.runs import machine_checks as preflight
from experiments.runs.machine_checks import HostMemory, check_machine, host_memory

GB = 10**9
NUM_BYTES = (967_752 + 3_968) + 2 * 967_752
"""Of a checkpoint of the small model: trained and frozen parameters, two moments of the trained ones."""


def experiment(*, data=None, **train):
    small = EXPERIMENTS["demo/retrieval"]()
    schedule = {"num_steps": 1000, "save_every_steps": 100, "num_validations": 0, "num_kept_checkpoints": 2}
    train = schedule | train
    return dataclasses.replace(
        small,
        data=dataclasses.replace(small.data, **({"num_workers": 0} | (data or {}))),
        train=dataclasses.replace(small.train, **train),
    )


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets the free bytes of the disk, the memory, and the limit of open files."""

    def be(*, disk=1000 * GB, memory=1000 * GB, available=None, open_files=4096):
        def disk_usage(place):
            return shutil._ntuple_diskusage(2000 * GB, 1000 * GB, disk)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        free = memory if available is None else available
        monkeypatch.setattr(preflight, "host_memory", lambda: HostMemory(memory, free))
        monkeypatch.setattr(resource, "getrlimit", lambda which: (open_files, open_files))

    be()
    return be


def make_checkpoints(workdir, *steps):
    for step in steps:
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)


def test_a_large_machine_has_no_notes_and_gets_no_files(machine, tmp_path):
    assert check_machine(experiment(), tmp_path / "runs" / "new") == []
    assert not list(tmp_path.iterdir())


# ---- Disk -------------------------------------------------------------------------------------------------


def num_checkpoints(machine, workdir, **train):
    """Return for how many checkpoints there must be room."""
    for number in range(10):
        machine(disk=number * NUM_BYTES + NUM_BYTES // 2)
        try:
            check_machine(experiment(**train), workdir)
        except UserError:
            continue
        return number
    raise AssertionError


def test_size_of_a_checkpoint_is_that_of_all_parameters_and_the_moments_of_the_trained_ones():
    config = experiment()
    _, trained, frozen_arrays = model_shapes(config.model, config.task.head)
    num_trained, num_frozen = (sum(x.size for x in part.values()) for part in (trained, frozen_arrays))
    counters = 16
    checkpoint, trained = preflight._state_bytes(config)
    assert checkpoint == 4 * (num_frozen + 3 * num_trained) + counters
    assert checkpoint == pytest.approx(NUM_BYTES, rel=1e-4)

    fewer, part = preflight._state_bytes(experiment(frozen_parts=("pixel_encoder/",)))
    assert 0 < part < trained
    assert checkpoint - fewer == 2 * (trained - part)


def test_room_is_needed_for_those_kept_the_best_and_the_one_being_written(machine, tmp_path):
    # A disk with room for half a checkpoint more than is needed is enough.
    assert num_checkpoints(machine, tmp_path, num_kept_checkpoints=2) == 3
    assert num_checkpoints(machine, tmp_path, num_kept_checkpoints=2, num_validations=5) == 4
    assert num_checkpoints(machine, tmp_path, num_kept_checkpoints=2, num_steps=150) == 2


def test_a_run_that_goes_on_needs_room_for_what_is_not_there(machine, tmp_path):
    make_checkpoints(tmp_path, 100, 200)
    (tmp_path / "checkpoints" / "300.orbax-checkpoint-tmp").mkdir()
    assert num_checkpoints(machine, tmp_path, num_kept_checkpoints=2, num_validations=5) == 2
    make_checkpoints(tmp_path, 300, 400, 500)
    assert num_checkpoints(machine, tmp_path, num_kept_checkpoints=2, num_validations=5) == 1
    make_checkpoints(tmp_path, 1000)
    assert num_checkpoints(machine, tmp_path, num_kept_checkpoints=2, num_validations=5) == 0


def test_what_a_kill_left_counts_as_room(machine, tmp_path):
    """As the start deletes it: a save that was killed may have filled the disk."""
    make_checkpoints(tmp_path, 100, 200)
    for name in ("300.orbax-checkpoint-tmp/parameters", "deleted/100"):
        path = tmp_path / "checkpoints" / name / "array"
        path.parent.mkdir(parents=True)
        path.touch()
        os.truncate(path, NUM_BYTES)  # takes no room in truth
    (tmp_path / "checkpoints" / "200" / "array").write_bytes(b"0" * NUM_BYTES)
    options = {"num_kept_checkpoints": 4}
    machine(disk=int(0.9 * NUM_BYTES))  # and three are to come
    with pytest.raises(UserError, match="the disk is too small"):
        check_machine(experiment(**options), tmp_path)
    machine(disk=int(1.1 * NUM_BYTES))
    (note,) = check_machine(experiment(**options), tmp_path)
    assert note.startswith("disk: ")
    shutil.rmtree(tmp_path / "checkpoints" / "deleted")
    with pytest.raises(UserError, match="the disk is too small"):
        check_machine(experiment(**options), tmp_path)


def test_a_full_disk_is_named_with_the_remedy(machine, tmp_path):
    machine(disk=0)
    workdir = tmp_path / "runs" / "new"
    pattern = rf"0\.0 GB are free on the disk of {tmp_path}, .* 3 checkpoint.* --train\.num-kept-checkpoints"
    with pytest.raises(UserError, match=pattern):
        check_machine(experiment(), workdir)
    assert not workdir.exists()


def test_a_disk_that_is_nearly_full_is_worth_a_line(machine, tmp_path):
    machine(disk=int(3.1 * NUM_BYTES))
    (note,) = check_machine(experiment(), tmp_path)
    assert note.startswith("disk: ")


# ---- Permissions ------------------------------------------------------------------------------------------


def deny(monkeypatch, place, flags=0):
    """Let a directory deny what root may do too; the filesystem has these flags."""
    allows, statvfs = os.access, os.statvfs
    monkeypatch.setattr(os, "access", lambda path, mode: path != place and allows(path, mode))

    def with_flags(path):
        values = list(statvfs(path))
        values[8] = flags
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", with_flags)


def test_a_place_that_others_own_is_refused(machine, tmp_path, monkeypatch):
    deny(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} does not let this user write; choose another"):
        check_machine(experiment(), tmp_path / "runs" / "new")


def test_a_read_only_filesystem_is_called_so(machine, tmp_path, monkeypatch):
    deny(monkeypatch, tmp_path, os.ST_RDONLY)
    with pytest.raises(UserError, match=f"{tmp_path} is on a read-only filesystem; choose another"):
        check_machine(experiment(), tmp_path)


def test_checkpoints_of_another_user_are_refused(machine, tmp_path, monkeypatch):
    make_checkpoints(tmp_path, 100)
    deny(monkeypatch, tmp_path / "checkpoints")
    with pytest.raises(UserError, match=f"{tmp_path}/checkpoints does not let this user write"):
        check_machine(experiment(), tmp_path)


def test_a_place_that_takes_no_files_whatever_it_permits_is_refused(machine):
    with pytest.raises(UserError, match=r"/proc/run cannot be written: /proc (refuses|does not let)"):
        check_machine(experiment(), preflight.Path("/proc/run"))


def test_a_file_is_no_place(machine, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{tmp_path}/file is not a directory"):
        check_machine(experiment(), tmp_path / "file" / "run")


# ---- Memory -----------------------------------------------------------------------------------------------


def test_memory_that_cannot_hold_the_batches_is_refused(machine, tmp_path):
    config = experiment(
        data={"num_workers": 4, "num_prefetch": 6, "size": 448, "num_clips": 8, "num_frames": 2}
    )
    batch = 32 * 8 * 2 * 448 * 448 * 3
    least = (4 * 6 + 3) * batch + 4 * GB // 4
    machine(memory=least)
    with pytest.raises(UserError, match=r"(?s)memory is too small.*--data\.num-workers.*--train\.batch-size"):
        check_machine(config, tmp_path)
    machine(memory=least + GB // 10)  # the small model
    (note,) = check_machine(config, tmp_path)
    assert note.startswith("memory: ")


def test_memory_that_decoding_may_exceed_is_worth_a_line(machine, tmp_path):
    config = experiment(data={"num_workers": 4, "worker_memory_gib": 2.0})
    machine(memory=100 * GB, available=9 * GB)
    (note,) = check_machine(config, tmp_path)
    assert re.search(r"may need 9\.\d GB .* 4 decoding workers\), and 9\.0 GB are free", note)
    machine(memory=100 * GB, available=11 * GB)
    assert check_machine(config, tmp_path) == []


def test_processes_share_a_batch(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    num_here = 1
    monkeypatch.setattr(preflight, "processes_of_this_host", lambda: num_here)
    machine(memory=GB)
    big = {"size": 448, "num_clips": 8, "num_frames": 2, "num_prefetch": 1, "num_threads": 1}
    assert check_machine(experiment(data=big, batch_size=32), tmp_path) == []
    with pytest.raises(UserError, match="memory"):
        check_machine(experiment(data=big, batch_size=128), tmp_path)
    num_here = 4
    with pytest.raises(UserError, match="each of 4 processes on this host needs"):
        check_machine(experiment(data=big, batch_size=32), tmp_path)


class Files:
    """A root directory with what the kernel would say."""

    def __init__(self, root):
        self.root = root
        self.write("proc/meminfo", "MemTotal:  1000 kB\nMemAvailable:  600 kB\nHugePages_Total:  0\n")
        self.write("proc/self/cgroup", "0::/\n")

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def group(self, folder, limit, usage, stat):
        names = ("max", "current") if "/memory" not in folder else ("limit_in_bytes", "usage_in_bytes")
        for name, value in zip((*names, "stat"), (limit, usage, stat), strict=True):
            self.write(f"sys/fs/cgroup/{folder}/memory.{name}", f"{value}\n")


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_memory_is_that_of_the_machine_where_nothing_limits_it(files):
    assert host_memory(files.root) == HostMemory(1000 * 1024, 600 * 1024)
    files.group(".", "max", 5, "inactive_file 1")
    assert host_memory(files.root) == HostMemory(1000 * 1024, 600 * 1024)


def test_a_container_has_its_own_limit_and_gets_the_page_cache_back(files):
    files.group(".", 500 * 1024, 400 * 1024, f"anon 7\ninactive_file {100 * 1024}")
    assert host_memory(files.root) == HostMemory(500 * 1024, 200 * 1024)


def test_the_strictest_group_above_a_process_counts(files):
    files.write("proc/self/cgroup", "0::/system.slice/job_7/step_0\n")
    files.group("system.slice/job_7/step_0", "max", 0, "inactive_file 0")
    files.group("system.slice/job_7", 300 * 1024, 100 * 1024, "inactive_file 0")
    files.group("system.slice", 800 * 1024, 700 * 1024, "inactive_file 0")
    assert host_memory(files.root) == HostMemory(300 * 1024, 100 * 1024)


def test_groups_of_the_first_version_count_too(files):
    files.write("proc/self/cgroup", "9:cpu,cpuacct:/elsewhere\n4:memory:/docker/1234\n0::/\n")
    files.group("/memory", 2**63 - 4096, 100 * 1024, "total_inactive_file 0")
    assert host_memory(files.root) == HostMemory(1000 * 1024, 600 * 1024)
    files.group("/memory/docker/1234", 400 * 1024, 300 * 1024, f"total_inactive_file {50 * 1024}")
    assert host_memory(files.root) == HostMemory(400 * 1024, 150 * 1024)


def test_this_machine_has_memory():
    memory = host_memory()
    assert 0 < memory.available <= memory.total


# ---- Open files -------------------------------------------------------------------------------------------


def test_a_low_limit_of_open_files_is_worth_a_line(machine, tmp_path):
    machine(open_files=256)
    (note,) = check_machine(experiment(), tmp_path)
    assert "may open 256 files" in note
    assert "ulimit -n" in note
    machine(open_files=resource.RLIM_INFINITY)
    assert check_machine(experiment(), tmp_path) == []
