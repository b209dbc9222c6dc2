"""Time a PyTorch ClipBERT on one workload: the peer that our model is timed against.

    python -m benchmarks.torch_peer --set cpu --workload "base train 224 px" --steps 10

The same architecture, shapes, data and update as ours, in the way that PyTorch is fast: `torch.compile`,
bfloat16 autocast, channels last, fused attention, fused AdamW, nothing in a step that waits for the device.
Needs torch, which this library does not depend on. One JSON object goes to stdout, all else to stderr; the
time of a step is from its call until the device is done. In no step are frames copied to the device.

With `--weights` (a .npz of original names, `original_names.to_original`) and `--no-dropout` the loss and
the gradient norm of the first step, or the scores, are to be those of our model. Masked-language-model steps
take random visual tokens; the first step takes those that our train step with seed 0 takes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

if __name__ == "__main__":  # JAX only draws weights here, and would take most of the GPU's memory
    os.environ["JAX_PLATFORMS"] = "cpu"
try:
    import torch  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError:
    sys.exit("benchmarks.torch_peer needs PyTorch, which is not a dependency here: pip install torch")

import numpy as np
import torch._inductor.config as inductor_config  # pyright: ignore[reportMissingImports]

from benchmarks.torch_model import PeerModel
from benchmarks.torch_trainer import (
    State,
    Tensors,
    Trainer,
    compiled,
    device_batch,
    make_model,
    match_logits,
    our_token_sample,
    with_visual_tokens,
)
from benchmarks.workloads import SETS, Workload, find_workload, synthetic_batch

_MAX_SCORES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerOptions:
    """How the peer runs."""

    device: str = "cuda"
    compile_mode: str | None = "default"
    """Mode of `torch.compile`; None runs eagerly."""
    num_steps: int = 30
    num_warmup_steps: int = 5
    """The first call, which compiles, is one of them."""
    num_rounds: int = 1
    """The steps are timed so many times over."""
    dropout: bool = True
    inductor: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the compiler."""


def measure(workload: Workload, state: State | None, options: PeerOptions) -> dict[str, Any]:
    """Time a workload; return times in seconds, memory in bytes, and what the first call gave."""
    _set_backends(options)
    torch.manual_seed(0)
    model = make_model(workload, state, options.device, dropout=options.dropout)
    batch = device_batch(workload.task, synthetic_batch(workload), options.device)
    if workload.kind == "train":
        return _measure_training(workload, model, batch, options)
    if workload.kind == "pairs":
        batch = with_visual_tokens(model, batch)
    score = compiled(lambda batch: match_logits(model, workload.task, batch), options.compile_mode)
    with torch.no_grad():
        logits, seconds = _timed(lambda: score(batch), options.device)
        # Read now: with CUDA graphs the next call writes over it.
        first = {"scores": logits.float().flatten()[:_MAX_SCORES].tolist()}
        return {**_measure_steps(lambda: score(batch), options), "compile_seconds": seconds, **first}


def _measure_training(
    workload: Workload, model: PeerModel, batch: Tensors, options: PeerOptions
) -> dict[str, Any]:
    num_steps = options.num_warmup_steps + options.num_rounds * options.num_steps
    trainer = Trainer(model, workload.task, num_steps=num_steps, compile_mode=options.compile_mode)
    sample = our_token_sample(workload, options.device)
    (loss, norm), seconds = _timed(lambda: trainer.step(batch, sample), options.device)
    first = {"loss": float(loss), "grad_norm": float(norm)}
    return {**_measure_steps(lambda: trainer.step(batch), options), "compile_seconds": seconds, **first}


def _measure_steps(call: Callable[[], Any], options: PeerOptions) -> dict[str, Any]:
    """Time the steps that follow the first call."""
    for _ in range(options.num_warmup_steps - 1):
        _timed(call, options.device)
    is_gpu = options.device.startswith("cuda")
    if is_gpu:  # without what cuDNN took while it tried its algorithms
        torch.cuda.reset_peak_memory_stats()
    rounds = [
        [_timed(call, options.device)[1] for _ in range(options.num_steps)] for _ in range(options.num_rounds)
    ]
    p10, median, p90 = (float(x) for x in np.percentile(rounds, [10, 50, 90]))
    host_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "median_seconds": median,
        "p10_seconds": p10,
        "p90_seconds": p90,
        "round_medians": [float(np.median(times)) for times in rounds],
        "peak_bytes": torch.cuda.max_memory_allocated() if is_gpu else host_bytes,
    }


def _timed(call: Callable[[], Any], device: str) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def _set_backends(options: PeerOptions) -> None:
    if options.device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    for name, value in options.inductor.items():
        setattr(inductor_config, name, value)


def describe(options: PeerOptions) -> dict[str, Any]:
    """Return versions and the device's name."""
    is_gpu = options.device.startswith("cuda")
    cudnn = torch.backends.cudnn
    return {
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": cudnn.version() if cudnn.is_available() else None,
            "python": platform.python_version(),
        },
        "device": torch.cuda.get_device_name() if is_gpu else platform.processor() or platform.machine(),
        "num_threads": torch.get_num_threads(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print one JSON object."""
    workload, options, weights = _parse(arguments)
    with contextlib.redirect_stdout(sys.stderr):
        record = {
            "name": workload.name,
            "kind": workload.kind,
            **describe(options),
            "num_steps": options.num_steps,
            "batch_size": workload.batch_size,
            "options": {**dataclasses.asdict(options), "compute_dtype": workload.model.compute_dtype},
        }
        try:
            result = measure(workload, _load_weights(weights), options)
            rate = workload.items_per_call / result["median_seconds"]
            record |= {**result, "items_per_second": rate, "unit": workload.unit}
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            record["out_of_memory"] = True
    print(json.dumps(record))


def _load_weights(path: str | None) -> State | None:
    if path is None:
        return None
    with np.load(path) as arrays:
        return dict(arrays)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Recognise it also where the compiler wraps it, and on a CPU."""
    message = str(error).lower()
    return "out of memory" in message or "can't allocate memory" in message


def _parse(arguments: list[str] | None) -> tuple[Workload, PeerOptions, str | None]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torch_peer", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--set", choices=SETS, default="accelerator")
    parser.add_argument("--workload", required=True, help="its name in the set")
    parser.add_argument("--batch-size", type=int, help="instead of the workload's")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is one")
    parser.add_argument("--steps", type=int, default=30, help="steps to time")
    parser.add_argument("--warmup", type=int, default=5, help="steps before, the compiling one included")
    parser.add_argument("--rounds", type=int, default=1, help="time the steps so many times over")
    parser.add_argument("--compile-mode", help="of torch.compile, instead of the one that suits")
    parser.add_argument("--no-compile", action="store_true", help="run eagerly")
    parser.add_argument("--inductor", type=json.loads, default={}, help="settings of the compiler, as JSON")
    parser.add_argument("--weights", help=".npz of original names; default: random")
    parser.add_argument("--no-dropout", action="store_true", help="to compare losses with another model's")
    parsed = parser.parse_args(arguments)
    names = [workload.name for workload in SETS[parsed.set]]
    if parsed.workload not in names:
        parser.error(f"--set {parsed.set} has no workload {parsed.workload!r}, but {', '.join(names)}")
    workload = find_workload(parsed.set, parsed.workload, parsed.batch_size)
    device = parsed.device or ("cuda" if torch.cuda.is_available() else "cpu")
    mode, inductor = _suitable_compilation(workload, device)
    options = PeerOptions(
        device=device,
        compile_mode=None if parsed.no_compile else parsed.compile_mode or mode,
        num_steps=parsed.steps,
        num_warmup_steps=parsed.warmup,
        num_rounds=parsed.rounds,
        dropout=not parsed.no_dropout,
        inductor={**inductor, **parsed.inductor},
    )
    return workload, options, parsed.weights


def _suitable_compilation(workload: Workload, device: str) -> tuple[str, dict[str, Any]]:
    """Return the mode of `torch.compile` and settings of Inductor.

    No CUDA graphs: a call takes many milliseconds, so that its launches are hidden. On a CPU freezing keeps
    the weights in oneDNN's own layout and fuses ReLU and GELU with the products.
    """
    if workload.kind == "train":
        return "default", {}
    return ("max-autotune-no-cudagraphs", {}) if device == "cuda" else ("default", {"freezing": True})


if __name__ == "__main__":
    main()
