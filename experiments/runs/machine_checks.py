"""Checks of the machine before a training writes anything: disk, memory, permissions, open files.

`train_run.py` calls it; `data_pipelines/workers/batch_workers.py` checks the shared memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import model_shapes
from clipbert_jax.training.optimizer import make_optimizer
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.training.validation import validation_steps
from data_pipelines.workers.batch_workers import check_shared_memory
from experiments.experiment import Experiment
from experiments.runtime.processes import processes_of_this_host

_GB = 10**9

_WORKER_BYTES = _GB // 4
"""Memory of a decoding worker before its first video, for the interpreter and the libraries."""

_BATCHES_ON_DEVICES = 3
"""Number of batches ahead of the step, and its own; on a CPU they are in the host's memory."""

_DISK_MARGIN = 1.25
"""Room, in multiples of the checkpoints, below which a line warns: logs and other runs grow too."""

_MIN_OPEN_FILES = 1024


def check_machine(experiment: Experiment, workdir: Path) -> list[str]:
    """Refuse a directory or a machine on which this training must fail; return lines about what may fail.

    A run that has all its steps needs nothing.

    Args:
      experiment: resolved experiment, with its number of steps.
      workdir: run directory, which may have a part of the run already.

    Raises:
      UserError: the run directory cannot be written, its disk cannot hold the checkpoints, or the host cannot
        hold the batches.
    """
    saved = _saved_steps(workdir)
    if saved and max(saved) >= experiment.train.num_steps:
        return []
    check_writable(workdir)
    checkpoint_bytes, trained_bytes = _state_bytes(experiment)
    data, num_processes = experiment.data, processes_of_this_host()
    num_videos = experiment.train.batch_size // jax.process_count()
    check_shared_memory(data, num_processes * data.batch_bytes(num_videos, data.num_clips))
    notes = [
        _check_disk(experiment.train, workdir, checkpoint_bytes, num_saved=len(saved)),
        _check_memory(_MemoryNeeds.of(experiment, checkpoint_bytes, trained_bytes), num_processes),
        _note_on_open_files(),
    ]
    return [note for note in notes if note]


def _state_bytes(experiment: Experiment) -> tuple[int, int]:
    """Return the bytes of a checkpoint, and those of the trained parameters: gradients take as much."""
    train = experiment.train
    _, trainable, frozen = model_shapes(experiment.model, experiment.task.head)
    trained = {name: x for name, x in trainable.items() if not name.startswith(train.frozen_parts)}
    optimizer = make_optimizer(experiment.optimizer, num_steps=train.num_steps)
    averages = trained if train.ema_decay > 0 else {}
    saved = trainable, frozen, averages, jax.eval_shape(optimizer.init, trained)
    return _num_bytes(saved), _num_bytes(trained)


def _num_bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


# ---- The run directory -----------------------------------------------------------------------


def _saved_steps(workdir: Path) -> list[int]:
    """Return the steps of the complete checkpoints; incomplete ones have longer names."""
    folder = workdir / "checkpoints"
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def _place(path: Path) -> Path:
    """Return the path, or the nearest directory above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))


def check_writable(workdir: Path) -> None:
    """Refuse a run directory to which this process cannot write.

    Raises:
      UserError: names the directory and the reason.
    """
    for place in (_place(workdir), _place(workdir / "checkpoints")):
        reason = _why_not_writable(place)
        if reason:
            raise UserError(
                f"{workdir} cannot be written: {place} {reason}; choose another directory, or change that one"
            )


def _why_not_writable(place: Path) -> str | None:
    if not place.is_dir():
        return "is not a directory"
    if not os.access(place, os.W_OK | os.X_OK):
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            return "is on a read-only filesystem"
        return "does not let this user write"
    if jax.process_index() == 0:  # alone: another process might take the file for part of a run
        try:
            tempfile.TemporaryFile(dir=place).close()
        except OSError as error:
            return f"refuses a new file ({error.strerror})"
    return None


def _check_disk(train: TrainConfig, workdir: Path, checkpoint_bytes: int, *, num_saved: int) -> str | None:
    """Refuse a disk without room for the next checkpoints; return a line if there is little room."""
    place = _place(workdir / "checkpoints")
    num_more = max(1, _max_checkpoints(train) - num_saved)
    needed = num_more * checkpoint_bytes
    free = shutil.disk_usage(place).free + _leftover_bytes(workdir / "checkpoints")
    what = (
        f"{free / _GB:.1f} GB are free on the disk of {place}, and this run writes {num_more} checkpoint(s) "
        f"of {checkpoint_bytes / _GB:.1f} GB, {needed / _GB:.1f} GB together"
    )
    remedy = "free some, choose another --workdir, or keep fewer with --train.num-kept-checkpoints"
    if free < needed:
        raise UserError(f"the disk is too small: {what}; {remedy}")
    return f"disk: {what}; if the room runs out, {remedy}" if free < _DISK_MARGIN * needed else None


def _leftover_bytes(folder: Path) -> int:
    """Return the size of what killed processes left beside the checkpoints; training deletes it first."""
    num_bytes = 0
    for place, folders, files in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if not name.isdigit()]
        for name in files:
            with contextlib.suppress(OSError):  # a training that runs now deletes them
                num_bytes += os.lstat(os.path.join(place, name)).st_size
    return num_bytes


def _max_checkpoints(train: TrainConfig) -> int:
    """Return the most checkpoints at one time: those that are kept, the best, and the one being written."""
    kept = train.num_kept_checkpoints + bool(train.num_validations) + 1
    regular = set(range(train.save_every_steps, train.num_steps + 1, train.save_every_steps))
    written = {*regular, *validation_steps(train.num_steps, train.num_validations), train.num_steps}
    return min(kept, len(written))


# ---- The host's memory ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _MemoryNeeds:
    """Bytes that this process and its workers need on the host."""

    batches: int
    """Batches made ahead, on the way, and on the devices."""
    state: int
    """First arrays of the model, or copy of the state that is being saved; on a CPU also the arrays of
    training, but for activations."""
    num_workers: int
    decoding: int
    """Memory for decoding in one worker."""

    @property
    def least(self) -> int:
        return self.batches + self.state + self.num_workers * _WORKER_BYTES

    @property
    def most(self) -> int:
        return self.least + self.num_workers * self.decoding

    @classmethod
    def of(cls, experiment: Experiment, checkpoint_bytes: int, trained_bytes: int) -> _MemoryNeeds:
        data = experiment.data
        num_videos = experiment.train.batch_size // jax.process_count()
        # As DataConfig.num_prefetch says.
        num_ahead = data.num_workers * max(4, data.num_prefetch) or data.num_prefetch + data.num_threads
        is_cpu = jax.default_backend() == "cpu"
        return cls(
            batches=(num_ahead + _BATCHES_ON_DEVICES) * data.batch_bytes(num_videos, data.num_clips),
            state=checkpoint_bytes + (checkpoint_bytes + trained_bytes if is_cpu else 0),
            num_workers=data.num_workers,
            decoding=int(data.worker_memory_gib * 2**30),
        )


def _check_memory(needs: _MemoryNeeds, num_processes: int) -> str | None:
    """Refuse a host with less than its processes need; return a line if it has less than they may need."""
    memory = host_memory()
    what = (
        f"(batches {needs.batches / _GB:.1f}, model and checkpoints {needs.state / _GB:.1f}, "
        f"{needs.num_workers} decoding workers)"
    )
    remedy = "lower --data.num-workers, --data.num-prefetch, --data.worker-memory-gib or --train.batch-size"
    each = f"each of {num_processes} processes on this host" if num_processes > 1 else "each process"
    if num_processes * needs.least > memory.total:
        raise UserError(
            f"the memory is too small: {each} needs {needs.least / _GB:.1f} GB {what}, and "
            f"the host has {memory.total / _GB:.1f} GB for them; {remedy}"
        )
    if num_processes * needs.most > memory.available:
        return (
            f"memory: {each} may need {needs.most / _GB:.1f} GB {what}, and "
            f"{memory.available / _GB:.1f} GB are free; if the system kills a process, {remedy}"
        )
    return None


def _note_on_open_files() -> str | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= _MIN_OPEN_FILES:
        return None
    return (
        f"a process may open {limit} files at once, and workers and checkpoints may need more: run "
        f"`ulimit -n {_MIN_OPEN_FILES}` before the command"
    )


@dataclasses.dataclass(frozen=True)
class HostMemory:
    """Bytes of memory for this process: in all, and free now."""

    total: int
    available: int


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Return the memory of this machine, or of the container or job of this process.

    Args:
      root: directory of /proc and /sys.
    """
    sizes = {
        line.partition(":")[0]: int(line.split()[1]) * 1024
        for line in (root / "proc/meminfo").read_text().splitlines()
    }
    found = [HostMemory(sizes["MemTotal"], sizes["MemAvailable"]), *_cgroup_memory(root)]
    return HostMemory(min(memory.total for memory in found), min(memory.available for memory in found))


_CGROUP_FILES = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}
"""Controller in /proc/self/cgroup -> folder, limit, usage, and memory that the kernel can free at once.

The first is version 2."""


def _cgroup_memory(root: Path) -> Iterator[HostMemory]:
    """Yield the memory of each control group, from that of this process to the outermost visible one."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in _CGROUP_FILES.keys() & set(controllers.split(",")):
            top, limit_file, usage_file, reclaimable = _CGROUP_FILES[controller]
            group = Path(path.lstrip("/"))
            for folder in (root / top / part for part in (group, *group.parents)):
                try:
                    limit = int((folder / limit_file).read_text())
                    usage = int((folder / usage_file).read_text())
                    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                except (OSError, ValueError):  # no limit ("max"), or not visible in a container
                    continue
                yield HostMemory(limit, max(0, limit - usage + int(stat.get(reclaimable, 0))))
