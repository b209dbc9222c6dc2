"""Time what the host does: dispatch, the first step with and without kept programs, feeding by decoders.

    python -m benchmarks.bench_host             # the demo's model, and dispatch of the full-size one
    python -m benchmarks.bench_host --base      # the first step of the full-size model too
    python -m benchmarks.bench_host --quick     # under two minutes

No accelerator is needed: dispatch is what the host does before a device begins, and a device whose work
leaves the cores to the decoders is simulated by waiting. A JSON and a Markdown file go to
`benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.first_step import cold_and_warm
from benchmarks.input_speed import (
    DEMO,
    Corpus,
    camera_corpus,
    core_seconds_per_video,
    demo_corpus,
    end_to_end,
    overlap,
)
from benchmarks.programs import training
from benchmarks.record import circumstances, default_out, table, versions_line, write_record
from benchmarks.workloads import find_workload, synthetic_batch
from clipbert_jax.models.kernel_choices import default_kernel_choices
from clipbert_jax.training.sharding import make_mesh, put_batch, replicated
from data_pipelines.workers.decoding_speed import num_needed_cores, num_usable_cores

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "grain", "av", "opencv-python-headless")
BASES = {"cpu": ("cpu", "base train 224 px"), "accelerator": ("accelerator", "retrieval training")}
DEVICE_RATES = (10, 50, 100, 200)
"""Videos per second of the devices in the table of cores."""


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print each part as it is done, write both files, and return the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_host", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="shorter, with fewer videos")
    parser.add_argument("--base", choices=BASES, help="first step of the full-size model too: where it runs")
    parser.add_argument("--num-workers", type=int, default=num_usable_cores(), help="processes that decode")
    parser.add_argument("--out", type=Path, help="file without suffix (default: in benchmarks/results/)")
    options = parser.parse_args(arguments)
    # In other processes, and first: JAX in this one would keep the device for itself.
    names = [DEMO, *([BASES[options.base]] if options.base else [])]
    first_steps = [cold_and_warm(*name) for name in names]
    device = jax.devices()[0]
    record = {
        **circumstances("bench_host", arguments, PACKAGES),
        "device": {"kind": device.device_kind, "platform": device.platform},
        "cores": num_usable_cores(),
        "dispatch": [dispatch(*DEMO), dispatch(*BASES["cpu"])],
    }
    _show(dispatch_table(record["dispatch"]))
    record["first_step"] = first_steps
    _show(first_step_table(record["first_step"]))
    record["input"] = input_speed(options.num_workers, is_quick=options.quick)
    _show(input_text(record["input"]))
    if options.out or not options.quick:
        out = options.out or default_out(record, "host")
        write_record(record, markdown(record), out)
        print(f"Wrote {out}.json and {out}.md")
    return record


def dispatch(set_name: str, workload_name: str, *, num_calls: int = 200) -> dict[str, Any]:
    """Time how long a call of the train step takes to return, without what the device does.

    A stand-in is called that has the arguments and results of the real step, array by array, but of one
    element or a few, and adds 1 to each: the device has nothing to do, and the host's handling is left.
    """
    workload, mesh = find_workload(set_name, workload_name), make_mesh(jax.devices()[:1])
    make_state, _ = training(workload, mesh, default_kernel_choices())
    state = jax.tree.map(lambda x: jnp.ones((1,) * x.ndim, x.dtype), jax.eval_shape(make_state))
    state = jax.device_put(state, replicated(mesh))
    small = dataclasses.replace(workload, batch_size=1, num_clips=1, num_frames=1, size=1, num_texts=1)
    batch = jax.tree.leaves(put_batch(synthetic_batch(small), mesh))

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=replicated(mesh))
    def stand_in(state: Any, batch: list[jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        loss = sum((jnp.sum(x, dtype=jnp.float32) for x in batch), jnp.zeros(()))
        return jax.tree.map(lambda x: x + 1, state), {"loss": loss, "grad_norm": loss}

    num_arrays = len(jax.tree.leaves((state, batch)))
    compiled = stand_in.lower(state, batch).compile()
    state, jitted, jitted_cores = _call_seconds(stand_in, state, batch, num_calls)
    _, ahead, _ = _call_seconds(compiled, state, batch, num_calls)
    return {
        "workload": workload_name,
        "num_arrays": num_arrays,
        "num_calls": num_calls,
        "median_seconds": float(np.median(jitted)),
        "p90_seconds": float(np.percentile(jitted, 90)),
        "median_core_seconds": float(np.median(jitted_cores)),
        "compiled_median_seconds": float(np.median(ahead)),
    }


def _call_seconds(
    step: Callable[..., Any], state: Any, batch: Any, num_calls: int
) -> tuple[Any, list[float], list[float]]:
    """Return the last state, and of each call its time and its core-time; the device is idle before it."""
    seconds, core_seconds = [], []
    for _ in range(num_calls + 3):
        jax.block_until_ready(state)
        begin, core_begin = time.perf_counter(), time.thread_time()
        state, _ = step(state, batch)
        core_seconds.append(time.thread_time() - core_begin)
        seconds.append(time.perf_counter() - begin)
    jax.block_until_ready(state)
    return state, seconds[3:], core_seconds[3:]


def input_speed(num_workers: int, *, is_quick: bool) -> dict[str, Any]:
    """Measure decoding of both corpora, devices that it feeds, and training of the demo's model."""
    seconds = 2.0 if is_quick else 20.0
    with tempfile.TemporaryDirectory(prefix="clipbert-bench-") as folder:
        demo = demo_corpus(Path(folder) / "demo", num_videos=64 if is_quick else 400)
        num_videos, length = (3, 8.0) if is_quick else (16, 15.0)
        camera = camera_corpus(Path(folder) / "camera", num_videos=num_videos, seconds=length)
        rounds = 1 if is_quick else 3
        return {
            "corpora": [_corpus_speed(corpus, num_workers, seconds) for corpus in (demo, camera)],
            "end_to_end": end_to_end(demo, num_workers, seconds=seconds, num_rounds=rounds),
        }


def _corpus_speed(corpus: Corpus, num_workers: int, seconds: float) -> dict[str, Any]:
    cost = core_seconds_per_video(corpus, seconds=seconds)
    return {
        "name": corpus.name,
        "batch_size": corpus.batch_size,
        "core_seconds_per_video": cost,
        "videos_per_second_per_core": 1 / cost,
        "needed_cores": {str(rate): num_needed_cores(cost, rate) for rate in DEVICE_RATES},
        "overlap": overlap(corpus, num_workers, seconds=seconds),
    }


def dispatch_table(rows: list[dict[str, Any]]) -> str:
    """Return milliseconds of a call."""
    columns = ["step", "arrays", "call returns after ms", "90th percentile", "of a core", "compiled ahead"]
    keys = ("median_seconds", "p90_seconds", "median_core_seconds", "compiled_median_seconds")
    return table(
        columns,
        [
            [row["workload"], str(row["num_arrays"]), *(f"{1e3 * row[key]:.2f}" for key in keys)]
            for row in rows
        ],
    )


def first_step_table(rows: list[dict[str, Any]]) -> str:
    """Return seconds of a start, with an empty cache and with a filled one."""
    cells = [
        [
            f"{row['workload']}, {kind}",
            *(f"{row[kind][f'{part}_seconds']:.1f}" for part in ("import", "state", "first_step")),
            f"{row[kind]['process_seconds']:.1f}",
            str(row[kind]["num_found"]),
            "yes" if row["warm"]["losses"] == row["cold"]["losses"] else "NO",
        ]
        for row in rows
        for kind in ("cold", "warm")
    ]
    columns = ["start", "imports s", "state s", "first step s", "process s", "programs found", "same losses"]
    return table(columns, cells)


def input_text(record: dict[str, Any]) -> str:
    """Return what decoding costs, how devices are fed by it, and how the demo trains."""
    parts = []
    for corpus in record["corpora"]:
        cost, fed = corpus["core_seconds_per_video"], corpus["overlap"]
        cores = ", ".join(f"{n} for {rate} videos/s" for rate, n in corpus["needed_cores"].items())
        parts.append(
            f"**{corpus['name']}**: {1e3 * cost:.1f} core-ms a video, so one decoder core keeps up with "
            f"{1 / cost:.1f} videos/s, and a device of R videos/s takes {cost:.3g} x R cores: {cores}."
        )
        parts.append(
            f"{fed['num_workers']} workers give {fed['decoders_videos_per_second']:.1f} videos/s. "
            "A device that takes so long a step, simulated by waiting, gets:"
        )
        parts.append(_device_table(corpus["batch_size"], fed["devices"]))
    ours = record["end_to_end"]
    rates = ours["steps_per_second"]
    parts.append(
        f"**The demo's model on this machine's devices**, {ours['batch_size']} videos a step, "
        f"{ours['num_workers']} workers: {rates['decoded']:.2f} steps/s on decoded batches, "
        f"{rates['synthetic']:.2f} on one batch repeated: {ours['ratio']:.2f} of it."
    )
    return "\n\n".join(parts)


def _device_table(batch_size: int, rows: list[dict[str, Any]]) -> str:
    columns = ["ms a step", "its videos/s", "of what the decoders give", "videos/s fed", "of its rate"]
    return table(
        columns,
        [
            [
                f"{1e3 * row['step_seconds']:.1f}",
                f"{batch_size / row['step_seconds']:.1f}",
                f"{row['share_of_decoders']:.0%}",
                f"{row['videos_per_second']:.1f}",
                f"{row['ratio']:.2f}",
            ]
            for row in rows
        ],
    )


def _show(text: str) -> None:
    print(f"{text}\n", flush=True)


def markdown(record: dict[str, Any]) -> str:
    """Return the page of a record."""
    text = [
        f"# The host's part ({record['date'][:10]})",
        f"`{record['command']}` on {record['device']['kind']} with {record['cores']} cores; "
        f"{versions_line(record)}.",
        "## Dispatch",
        "Until a call of the step returns, without the work of the device: one that has the same arrays, of "
        f"a few elements, does nothing but add 1. Median of {record['dispatch'][0]['num_calls']} calls. "
        "`of a core` is the time that the calling thread has had a core, which other programs delay less.",
        dispatch_table(record["dispatch"]),
        "## The first step",
        "In a new process each, with an empty directory of compiled programs and with the one then filled.",
        first_step_table(record["first_step"]),
        "## Input",
        input_text(record["input"]),
    ]
    return "\n\n".join(text)


if __name__ == "__main__":
    main()
