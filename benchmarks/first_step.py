"""One start of training, from importing JAX to the end of the first step: run by `bench_host`.

    python -m benchmarks.first_step --set demo --workload "tiny train"

Prints one line of JSON. Compiled programs are kept where JAX_COMPILATION_CACHE_DIR says, if it does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import run_child

START = time.perf_counter()
AS_COMMANDS_DO = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(10 * 2**30),
}
"""What `experiments/runtime/compilation_cache.py` sets."""

_EVENT = "/jax/compilation_cache/"


def cold_and_warm(set_name: str, workload: str) -> dict[str, Any]:
    """Start twice in new processes, with an empty cache and with the one that the first has filled."""
    with tempfile.TemporaryDirectory(prefix="clipbert-bench-") as kept_in:
        environment = {**AS_COMMANDS_DO, "JAX_COMPILATION_CACHE_DIR": kept_in}
        command = [sys.executable, "-m", "benchmarks.first_step", "--set", set_name, "--workload", workload]
        starts = [_start(command, environment) for _ in range(2)]
        kept = sum(path.stat().st_size for path in Path(kept_in).rglob("*-cache"))
    cold, warm = starts
    return {"workload": workload, "cold": cold, "warm": warm, "kept_bytes": kept}


def _start(command: Sequence[str], environment: dict[str, str]) -> dict[str, Any]:
    begin = time.perf_counter()
    found = run_child(command, environment=environment)
    if "problem" in found:
        raise RuntimeError(f"{' '.join(command)} failed:\n{found.get('stderr', found['problem'])}")
    return {"process_seconds": time.perf_counter() - begin, **found}


def first_step(set_name: str, workload_name: str) -> dict[str, Any]:
    """Import, make a state, and do two steps; return how long each took, and where programs came from."""
    import jax

    from benchmarks.programs import training
    from benchmarks.workloads import find_workload, synthetic_batch
    from clipbert_jax.models.kernel_choices import default_kernel_choices
    from clipbert_jax.training.sharding import make_mesh, put_batch

    events: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    workload, mesh = find_workload(set_name, workload_name), make_mesh()
    times = [START, time.perf_counter()]

    make_state, step = training(workload, mesh, default_kernel_choices())
    state, batch = jax.block_until_ready((make_state(), put_batch(synthetic_batch(workload), mesh)))
    times.append(time.perf_counter())
    losses = []
    for _ in range(2):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        times.append(time.perf_counter())
    names = ("import_seconds", "state_seconds", "first_step_seconds", "second_step_seconds")
    return {
        **{name: end - begin for name, begin, end in zip(names, times, times[1:], strict=False)},
        "losses": [loss.hex() for loss in losses],
        "num_kept": events.count(f"{_EVENT}cache_misses"),
        "num_found": events.count(f"{_EVENT}cache_hits"),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_step", description=__doc__)
    parser.add_argument("--set", default="demo", dest="set_name")
    parser.add_argument("--workload", default="tiny train")
    options = parser.parse_args()
    print(json.dumps(first_step(options.set_name, options.workload)))


if __name__ == "__main__":
    main()
