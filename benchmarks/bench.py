"""Time the model here, against a PyTorch model of the same arithmetic and against the roofline.

    python -m benchmarks.bench                    # CPU: the full-size model on one video, and the demo's
    python -m benchmarks.bench --set accelerator  # one GPU or TPU: the paper's tasks, under 9 minutes
    python -m benchmarks.bench --set accelerator --levers   # what each choice of kernel_choices.py does there

Batches are synthetic, so that neither data pipeline nor network is needed: JAX, Flax, Optax, Orbax and
jaxtyping are enough. Times are of single steps, each waited for, after warm-up; where PyTorch is installed,
it runs the same workload in the same call, in turn with ours. A JSON and a Markdown file go to
`benchmarks/results/`, those of `--smoke` into a new temporary folder. The exit code is 1 if anything failed
but for want of memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.child import run_child
from benchmarks.record import RESULTS, circumstances, processor, write_record
from benchmarks.report import markdown
from benchmarks.workloads import SETS

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch")

NO_TIME = "no time left"

JOB_SECONDS = 200.0
"""Time limit of one process, so that one that hangs does not take the time of all others."""

# Each is turned round from what kernel_choices.py chooses, alone.
LEVERS: dict[str, dict[str, Any]] = {
    "1x1 convolutions as convolutions": {"pointwise_products": []},
    "1x1 convolutions as products": {"pointwise_products": ["res2", "res3", "res4", "res5"]},
    "attention as separate products": {"has_fused_attention": False},
    "last layer complete": {"trims_last_layer": False},
}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and write both files."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--set", nargs="+", choices=SETS, default=["cpu", "demo"], dest="sets")
    parser.add_argument("--smoke", action="store_const", const=["smoke"], dest="sets", help="--set smoke")
    parser.add_argument("--workload", nargs="+", help="only these")
    parser.add_argument("--batch-size", type=int, help="over all devices")
    parser.add_argument("--steps", type=int, default=30, help="to time, of each workload and round")
    parser.add_argument("--rounds", type=int, default=1, help="ours and the peer take turns so often")
    parser.add_argument("--levers", action="store_true", help="time other lowerings instead of parts")
    parser.add_argument("--no-stages", action="store_true", help="do not time the parts of the model")
    parser.add_argument("--minutes", type=float, default=8.5, help="start nothing after so many")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--out", type=Path, help="file without suffix (default: in benchmarks/results/)")
    options = parser.parse_args(arguments)
    if mistake := _mistake(options):
        parser.exit(2, f"{parser.prog}: {mistake}\n")
    end = time.monotonic() + 60 * options.minutes
    record: dict[str, Any] = {**_circumstances(options.peer_python), "rows": []}
    if record["peer_versions"].get("torch") is None:
        print(f"{options.peer_python} has no PyTorch: no ratios (--peer-python names one that has it)")
    if "accelerator" in options.sets and record["device"]["platform"] == "cpu":
        sys.exit("--set accelerator times the full-size model, but JAX sees no accelerator: see jax[cuda13]")
    out = options.out or _choose_out(record, options.sets)
    has_peer = record["peer_versions"].get("torch") is not None
    for job in _jobs(options):
        if job.kind != "peer" or has_peer:
            _do(job, record["rows"], options, end)
            # After every one, so that a benchmark that is cut short loses nothing.
            write_record(record, markdown(record), out)
    print(f"Wrote {out}.json and {out}.md")
    if failed := _failed(record["rows"]):
        sys.exit(f"not measured: {', '.join(failed)}; the reasons are in {out}.json")


def _mistake(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the options, in a sentence."""
    known = {workload.name: None for name in options.sets for workload in SETS[name]}
    if unknown := [name for name in options.workload or () if name not in known]:
        return f"no workload {unknown[0]!r} in this set; there are {', '.join(known)}"
    for name in ("batch_size", "steps", "rounds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            return f"--{name.replace('_', '-')} takes a number from 1 on, not {value}"
    if not options.minutes > 0:
        return f"--minutes takes a number above 0, not {options.minutes:g}"
    if shutil.which(options.peer_python) is None:
        return (
            f"--peer-python {options.peer_python} is not a program; `make peer` makes .venv-peer/bin/python"
        )
    return _why_not_writable(options.out) if options.out else None


def _why_not_writable(out: Path) -> str | None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        return f"--out {out} cannot be written ({error.strerror}): choose another place"
    return None


def _failed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what gave no numbers, though there was memory and time for it."""
    failed = []
    for row in rows:
        problems = {part: (row.get(part) or {}).get("problem") for part in ("ours", "peer")}
        problems["parts"] = row.get("stages_problem")
        failed += [
            f"{row['workload']} ({row.get('lever', part)})"
            for part, problem in problems.items()
            if problem not in (None, NO_TIME)
        ]
    return failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One process that measures."""

    kind: Literal["ours", "peer", "stages", "lever"]
    set_name: str
    workload: str
    lever: str = ""


def _jobs(options: argparse.Namespace) -> list[Job]:
    """Return what is to be done, the most important first: time may run out."""
    chosen = [
        {"set_name": name, "workload": workload.name}
        for name in options.sets
        for workload in SETS[name]
        if not options.workload or workload.name in options.workload
    ]
    # Whether everything runs is asked of one workload in all its parts, to have the answer in two minutes.
    complete = chosen[:1] if options.sets == ["smoke"] and not options.workload else chosen
    early, late = [], []
    for where in chosen:
        # Compiling takes PyTorch a minute and more: on a GPU the other ratios come last.
        has_early_peer = where["set_name"] != "accelerator" or where is chosen[0]
        for _ in range(options.rounds):
            early.append(Job(kind="ours", **where))
            if where in complete:
                (early if has_early_peer else late).append(Job(kind="peer", **where))
    stages = [] if options.no_stages else [Job(kind="stages", **where) for where in complete]
    levers = [Job(kind="lever", **where, lever=name) for where in chosen for name in LEVERS]
    if options.levers:
        return [*early, *levers]
    return [*early, *late[:1], *stages[:1], *late[1:], *stages[1:]]


def _do(job: Job, rows: list[dict[str, Any]], options: argparse.Namespace, end: float) -> None:
    """Measure, and put what comes out into the row of its workload, or into a new one."""
    common = ["--set", job.set_name, "--workload", job.workload, "--steps", str(options.steps)]
    if options.batch_size:
        common += ["--batch-size", str(options.batch_size)]
    ours = [sys.executable, "-m", "benchmarks.measure", *common]
    row = next((r for r in rows if (r["set"], r["workload"]) == (job.set_name, job.workload)), None)
    if row is None:
        row = {"workload": job.workload, "set": job.set_name, "ours": None, "peer": None}
        rows.append(row)
    match job.kind:
        case "ours":
            row["ours"] = _better(row["ours"], _run(ours, end))
        case "peer":
            command = [options.peer_python, "-m", "benchmarks.torch_peer", *common]
            found = _run(command, end)
            if found.get("problem") == "took too long":  # PyTorch's tuning of kernels may
                found = _run([*command, "--compile-mode", "default"], end)
            row["peer"] = _better(row["peer"], found)
        case "stages":
            found = _run([*ours, "--stages"], end)
            row["stages"], row["stages_problem"] = found.get("stages"), found.get("problem")
            return
        case "lever":
            chosen = (row["ours"] or {}).get("lowering", {})
            if all(chosen.get(name) == value for name, value in LEVERS[job.lever].items()):
                return  # chosen so already
            changed = _run([*ours, "--lowering", json.dumps(LEVERS[job.lever])], end)
            row = {"workload": job.workload, "set": job.set_name, "lever": job.lever, "ours": changed}
            rows.append(row)
    print(_line(row), flush=True)


def _run(command: Sequence[str], end: float) -> dict[str, Any]:
    seconds = min(end - time.monotonic(), JOB_SECONDS)
    return run_child(command, timeout_seconds=seconds) if seconds > 0 else {"problem": NO_TIME}


def _better(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return the round with the lesser median: what else the machine did only ever adds."""
    if old is None or "median_seconds" not in old:
        return new
    return min(old, new, key=lambda row: row.get("median_seconds", math.inf))


def _line(row: dict[str, Any]) -> str:
    ours, peer = row["ours"] or {}, row.get("peer") or {}
    text = f"{row['workload']:<24} {row.get('lever', ''):<34}"
    if "median_seconds" not in ours:
        return f"{text} {'out of memory' if ours.get('out_of_memory') else ours.get('problem')}"
    text += f" {1e3 * ours['median_seconds']:9.1f} ms {ours['items_per_second']:10.1f} {ours['unit']}/s"
    if "median_seconds" in peer:
        text += f"  {ours['median_seconds'] / peer['median_seconds']:.2f} of the peer's time"
    return text


def _circumstances(peer_python: str) -> dict[str, Any]:
    probe = "import jax; d = jax.devices(); print(len(d), d[0].platform, d[0].device_kind)"
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"JAX finds no device here:\n{answer.stderr[-2000:]}")
    count, where, kind = answer.stdout.strip().splitlines()[-1].split(maxsplit=2)
    return {
        **circumstances("bench", None),
        "device": {"kind": processor() if where == "cpu" else kind, "platform": where, "count": int(count)},
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: version for name, version in _versions(sys.executable).items() if version},
        "peer_versions": _versions(peer_python),
        "flags": {name: os.environ[name] for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") if name in os.environ},
    }


def _versions(python: str) -> dict[str, str | None]:
    if python == sys.executable:
        return {name: _version(name) for name in PACKAGES}
    code = (
        "import importlib.metadata as m, json, sys\n"
        "have = {str(d.metadata['Name']).lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: have.get(n) for n in sys.argv[1:]}))"
    )
    answer = subprocess.run([python, "-c", code, *PACKAGES], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _choose_out(record: dict[str, Any], sets: Sequence[str]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="clipbert-bench-")) if sets == ["smoke"] else RESULTS
    device = record["device"]
    kind = "cpu" if device["platform"] == "cpu" else device["kind"]
    kind = "".join(c if c.isalnum() else "-" for c in kind.lower())
    return folder / f"{record['date'][:10]}_{kind}_{'-'.join(sets)}"


if __name__ == "__main__":
    main()
