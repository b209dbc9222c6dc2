"""What the benchmark programs share: where and how a record was made, its tables, and its two files."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


def circumstances(
    program: str, arguments: Sequence[str] | None, packages: Iterable[str] = ()
) -> dict[str, Any]:
    """Return date, command and versions of a record.

    Args:
      program: module in `benchmarks`.
      arguments: given to its `main`; None: those of the command line.
      packages: names of installed packages.
    """
    given = sys.argv[1:] if arguments is None else arguments
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"benchmarks.{program}", *given]),
        "versions": {"python": platform.python_version(), **versions},
    }


def versions_line(record: dict[str, Any]) -> str:
    """Return the versions in words."""
    return ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def processor() -> str:
    """Return the name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "cpu")


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_record(record: dict[str, Any], text: str, out: Path) -> None:
    """Write `out.json` and `out.md`, in a folder that is made if need be."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in (".json", json.dumps(record, indent=2)), (".md", text.rstrip()):
        out.with_name(out.name + suffix).write_text(content + "\n")


def default_out(record: dict[str, Any], name: str) -> Path:
    """Return the dated path, without suffix, in `benchmarks/results`."""
    return RESULTS / f"{record['date'][:10]}_{name}"
