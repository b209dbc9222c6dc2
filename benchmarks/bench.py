"""Time the jitted train step and inference of a ClipBERT on whatever devices are there.

    python -m benchmarks.bench --model tiny
    python -m benchmarks.bench --preset gpu --batch-size 8

The step is the one that `clipbert train` runs; the batch is synthetic, so that only the model is timed and
neither data pipeline nor network is needed: JAX, Flax, Optax, jaxtyping and this library are enough. One JSON
file per call goes to `benchmarks/results/`. Times are of single steps, each waited for, after warm-up.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
from flax import nnx

from clipbert_jax.batch import Batch
from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.skeleton import Parameters, split_model
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import make_mesh, put_batch, replicated
from clipbert_jax.training.step import make_train_state, make_train_step

RESULTS = Path(__file__).with_name("results")

ModelName = Literal["tiny", "base"]
DtypeName = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is timed: a retrieval model and the shape of its batch."""

    model: ModelName = "tiny"
    num_clips: int = 4
    num_frames: int = 1
    size: int = 48
    """Pixels of a side; frames are square."""
    num_texts: int = 6
    """Per video: one that matches, the others do not."""
    text_length: int = 20
    dtype: DtypeName = "float32"
    num_warmup_steps: int = 3
    num_steps: int = 30


PRESETS = {
    # The demo's model and batch.
    "demo": (BenchConfig(), [32]),
    # The original's MSRVTT retrieval: 8 clips of 2 frames, one matching and one other text.
    "gpu": (
        BenchConfig(
            model="base", num_clips=8, num_frames=2, size=448, num_texts=2, dtype="bfloat16", num_steps=50
        ),
        [4, 8, 16],
    ),
    # Seconds on a CPU: does the benchmark run?
    "smoke": (BenchConfig(num_clips=2, size=32, num_texts=2, num_warmup_steps=1, num_steps=3), [8]),
}


def main(arguments: list[str] | None = None) -> Path:
    """Measure every batch size, print a line for each, and return the path of the JSON file."""
    config, batch_sizes, out = _parse(sys.argv[1:] if arguments is None else arguments)
    devices = jax.devices()
    if config == PRESETS["gpu"][0] and jax.default_backend() == "cpu":
        sys.exit("--preset gpu times the full-size model, and JAX sees no accelerator: install jax[cuda13]")
    print(f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), JAX {jax.__version__}")
    print(" ".join(f"{key}={value}" for key, value in dataclasses.asdict(config).items()))
    measurements = []
    for batch_size in sorted(batch_sizes):
        measurements.append(measure(config, batch_size))
        if "out_of_memory" in measurements[-1]:
            break  # larger ones will not fit either
    return _write(config, measurements, out)


def measure(config: BenchConfig, batch_size: int) -> dict[str, Any]:
    """Time inference and then the train step, the larger of the two, at one batch size."""
    batch = put_batch(synthetic_batch(config, batch_size), make_mesh())
    result: dict[str, Any] = {
        "batch_size": batch_size,
        "batch_shapes": {name: list(x.shape) for name, x in vars(batch).items() if x is not None},
    }
    try:
        for name, measure_one in (("inference", measure_inference), ("train_step", measure_train_step)):
            result[name] = measure_one(config, batch)
            _print(batch_size, name, result[name])
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"batch {batch_size:>3}  out of memory")
        result["out_of_memory"] = True
    return result


def measure_inference(config: BenchConfig, batch: Batch) -> dict[str, Any]:
    """Time the way from frames and texts to match logits."""
    task = _make_task(config)
    skeleton, params, frozen = split_model(_make_model(config, task))

    @jax.jit
    def infer(arrays: Parameters, batch: Batch) -> jax.Array:
        output = skeleton.merge(arrays)(batch.frames, batch.text_ids, batch.text_mask)
        return task.match_logit(output.scores)

    arrays = jax.device_put({**params, **frozen}, replicated(make_mesh()))
    program = _Program(infer, arrays, batch)
    return program.summary(_time(lambda: program.compiled(arrays, batch), config), batch)


def measure_train_step(config: BenchConfig, batch: Batch) -> dict[str, Any]:
    """Time the very step that training runs: gradients, clipping and the optimizer's update."""
    task, mesh = _make_task(config), make_mesh()
    optimizer = make_optimizer(OptimizerConfig(), num_steps=config.num_warmup_steps + config.num_steps)
    skeleton, state = make_train_state(_make_model(config, task), optimizer, mesh)
    program = _Program(make_train_step(skeleton, task, optimizer, mesh, seed=0), state, batch)

    def step() -> Any:
        nonlocal state  # the step eats the state that it is given
        state, metrics = program.compiled(state, batch)
        return state, metrics

    return program.summary(_time(step, config), batch)


def synthetic_batch(config: BenchConfig, batch_size: int) -> Batch:
    """Return random frames and texts of full length; the first text of each video matches it."""
    random = np.random.default_rng(0)
    texts = (batch_size, config.num_texts)
    labels = np.zeros(texts, np.int32)
    labels[:, 0] = 1
    frames = (batch_size, config.num_clips, config.num_frames, config.size, config.size, 3)
    vocab_size = _make_config(config).fusion.vocab_size
    return Batch(
        frames=random.integers(0, 256, frames, dtype=np.uint8),
        text_ids=random.integers(0, vocab_size, (*texts, config.text_length), dtype=np.int32),
        text_mask=np.ones((*texts, config.text_length), bool),
        text_valid=np.ones(texts, bool),
        labels=labels,
        example_mask=np.ones(batch_size, bool),
    )


def _make_config(config: BenchConfig) -> ClipBertConfig:
    make = {"tiny": ClipBertConfig.tiny, "base": ClipBertConfig.base}[config.model]
    return dataclasses.replace(make(), compute_dtype=config.dtype)


def _make_task(config: BenchConfig) -> Retrieval:
    return Retrieval(num_negatives=config.num_texts - 1)


def _make_model(config: BenchConfig, task: Retrieval) -> ClipBert:
    return ClipBert(_make_config(config), task.head, rngs=nnx.Rngs(0))


class _Program:
    """One jitted function, compiled ahead for the given arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        lowered = function.lower(*arguments)  # type: ignore[attr-defined]
        start = time.perf_counter()
        self.compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        # Of the program as written: a compiled GPU program hides its convolutions in library calls.
        self.flops = float((lowered.cost_analysis() or {}).get("flops", 0.0))

    def summary(self, times: list[float], batch: Batch) -> dict[str, Any]:
        """Return times in seconds, rates over all devices, and memory of one device in bytes."""
        p10, median, p90 = (float(x) for x in np.percentile(times, [10, 50, 90]))
        memory = self.compiled.memory_analysis()
        device_stats = jax.devices()[0].memory_stats() or {}
        return {
            "median_seconds": median,
            "p10_seconds": p10,
            "p90_seconds": p90,
            "num_steps": len(times),
            "videos_per_second": np.shape(batch.frames)[0] / median,
            "flops_per_step": self.flops,
            "tflops_per_second": self.flops / median / 1e12,
            "compile_seconds": self.compile_seconds,
            # What this program needs, as the compiler planned it.
            "program_bytes": memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes,
            # Highest use so far in this process; None where the device does not say (CPU).
            "device_peak_bytes": device_stats.get("peak_bytes_in_use"),
            "host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def _time(call: Callable[[], Any], config: BenchConfig) -> list[float]:
    """Return the seconds of each step after the warm-up."""
    times = []
    for _ in range(config.num_warmup_steps + config.num_steps):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return times[config.num_warmup_steps :]


def _print(batch_size: int, name: str, summary: dict[str, Any]) -> None:
    print(
        f"batch {batch_size:>3}  {name.replace('_', ' '):<10}  {1e3 * summary['median_seconds']:9.2f} ms "
        f"({1e3 * summary['p10_seconds']:.2f}-{1e3 * summary['p90_seconds']:.2f})  "
        f"{summary['videos_per_second']:8.1f} videos/s  {summary['tflops_per_second']:8.3f} TFLOP/s  "
        f"{(summary['device_peak_bytes'] or summary['program_bytes']) / 2**20:9,.0f} MiB  "
        f"compiled in {summary['compile_seconds']:.1f} s",
        flush=True,
    )


def _write(config: BenchConfig, measurements: list[dict[str, Any]], out: Path | None) -> Path:
    device = jax.devices()[0]
    now = datetime.datetime.now(datetime.UTC)
    if out is None:
        kind = "".join(c if c.isalnum() else "-" for c in device.device_kind.lower())
        shape = f"{config.num_clips}x{config.num_frames}x{config.size}"
        folder = Path(tempfile.gettempdir()) if config == PRESETS["smoke"][0] else RESULTS
        out = folder / f"{now:%Y-%m-%d}_{kind}_{config.model}-{shape}-{config.dtype}.json"
    record = {
        "date": now.isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.bench", *sys.argv[1:]]),
        "device": {"kind": device.device_kind, "platform": device.platform, "count": jax.device_count()},
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")
            },
        },
        "config": dataclasses.asdict(config),
        "measurements": measurements,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"Wrote {out}")
    return out


def _parse(arguments: list[str]) -> tuple[BenchConfig, list[int], Path | None]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--preset", choices=PRESETS, default="demo", help="start from here (default: demo)")
    parser.add_argument("--smoke", action="store_const", const="smoke", dest="preset", help="--preset smoke")
    parser.add_argument("--model", choices=get_args(ModelName))
    parser.add_argument("--num-clips", type=int, help="clips per video")
    parser.add_argument("--num-frames", type=int, help="frames per clip")
    parser.add_argument("--size", type=int, help="pixels of a side")
    parser.add_argument("--num-texts", type=int, help="texts per video")
    parser.add_argument("--text-length", type=int, help="tokens per text")
    parser.add_argument("--dtype", choices=get_args(DtypeName), help="arithmetic of the network")
    parser.add_argument("--steps", type=int, dest="num_steps", help="steps to time")
    parser.add_argument(
        "--batch-size", type=int, nargs="+", help="videos, over all devices; several are tried"
    )
    parser.add_argument("--out", type=Path, help="JSON file (default: in benchmarks/results/)")
    options = vars(parser.parse_args(arguments))
    config, batch_sizes = PRESETS[options.pop("preset")]
    out, chosen_sizes = options.pop("out"), options.pop("batch_size")
    changes = {name: value for name, value in options.items() if value is not None}
    return dataclasses.replace(config, **changes), chosen_sizes or batch_sizes, out


if __name__ == "__main__":
    main()
