"""How much memory this process may have: that of the machine, or of the container or job that it is in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class HostMemory:
    """Bytes that this process may have in all, and that are free now."""

    total: int
    available: int


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Return the memory of this machine, or of the container or job that this process is in.

    Args:
      root: where /proc and /sys are found.
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
"""Controller in /proc/self/cgroup -> folder, limit, usage, and what the kernel can give back at once.

The first is of version 2."""


def _cgroup_memory(root: Path) -> Iterator[HostMemory]:
    """Yield what each control group leaves, from that of this process up to the outermost that is seen."""
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
                except (
                    OSError,
                    ValueError,
                ):  # no limit ("max"), or not to be seen from inside of a container
                    continue
                yield HostMemory(limit, max(0, limit - usage + int(stat.get(reclaimable, 0))))
