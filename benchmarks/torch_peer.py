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
import math
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
    sys.exit("benchmarks.torch_peer needs PyTorch, which is no dependency here: pip install torch")

import jax
import numpy as np
import torch._inductor.config as inductor_config  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]

from benchmarks.torch_model import PeerModel, load_original
from benchmarks.workloads import SETS, Workload, find_workload, synthetic_batch
from clipbert_jax.batch import Batch
from clipbert_jax.models.consensus import Consensus
from clipbert_jax.models.pixel_encoder import grid_size
from clipbert_jax.models.visual_embedding import draw_token_sample
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.optimizer import OptimizerConfig, make_schedules
from clipbert_jax.training.step import _TOKEN_SAMPLE

Task = Retrieval | MultipleChoiceQA | Pretraining
Tensors = dict[str, Any]
State = Mapping[str, np.ndarray]
"""Weights by their original names."""

_MAX_SCORES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerOptions:
    """How the peer runs."""

    device: str = "cuda"
    compile_mode: str | None = "default"
    """Of `torch.compile`; None runs eagerly."""
    num_steps: int = 30
    num_warmup_steps: int = 5
    """The first call, which compiles, is one of them."""
    num_rounds: int = 1
    """The steps are timed so many times over."""
    dropout: bool = True
    inductor: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the compiler."""


def make_model(workload: Workload, state: State | None, device: str, *, dropout: bool = True) -> PeerModel:
    """Return the peer of a workload, ready to train or to score; without a state with random weights."""
    config = workload.model
    if not dropout:
        fusion = dataclasses.replace(config.fusion, dropout_rate=0.0, attention_dropout_rate=0.0)
        config = dataclasses.replace(config, fusion=fusion)
    model = PeerModel(config, workload.task.head)
    if state is not None:
        load_original(model, state)
    return model.to(device).prepare(is_trained=workload.kind == "train")


def device_batch(task: Task, batch: Batch, device: str) -> Tensors:
    """Put on the device what a step reads: the batch, and the labels and weights of each loss.

    A mask that hides nothing is left out, because attention is faster without one.
    """
    labels, weights = _labels(task, batch), task.loss_weights(batch)
    is_full = bool(np.all(batch.text_mask))
    arrays = {
        "frames": batch.frames,
        "text_ids": np.asarray(batch.text_ids, np.int64),
        "text_mask": None if is_full else batch.text_mask,
        "text_valid": batch.text_valid,
        "labels": {name: np.maximum(x, -1).astype(np.int64) for name, x in labels.items()},
        "weights": {name: np.asarray(x) for name, x in weights.items()},
    }
    return jax.tree.map(lambda x: torch.from_numpy(np.array(x)).to(device), arrays)


def _labels(task: Task, batch: Batch) -> dict[str, np.ndarray]:
    labels = np.asarray(batch.labels)
    if not isinstance(task, Pretraining):
        return {"ce": labels}
    is_learned = np.asarray(batch.is_real_text)
    if task.masked_lm_on == "matching":
        is_learned = is_learned & (labels == 1)
    token_labels = np.asarray(batch.token_labels)
    return {"masked_lm": np.where(is_learned[..., None], token_labels, -1), "matching": labels}


def pool_clips(scores: Tensor, consensus: Consensus) -> Tensor:
    """Pool scores [b k ...] over the clips, in at least float32."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    match consensus:
        case "mean":
            return scores.mean(1)
        case "max":
            return scores.amax(1)
        case "log_sum_exp":
            return scores.logsumexp(1) - math.log(scores.shape[1])


def loss_of(model: PeerModel, task: Task, batch: Tensors, sampled_tokens: Tensor | None) -> Tensor:
    """Return the sum of the weighted means of the task's losses."""
    with _autocast(model, batch["frames"].device.type):
        scores, token_scores = model(batch["frames"], batch["text_ids"], batch["text_mask"], sampled_tokens)
    logits = {"ce": pool_clips(scores, task.consensus)}
    if isinstance(task, MultipleChoiceQA):
        options = logits["ce"][..., 0]
        logits = {"ce": options.masked_fill(~batch["text_valid"], torch.finfo(options.dtype).min)}
    elif isinstance(task, Pretraining):
        logits = {"matching": logits["ce"], "masked_lm": pool_clips(token_scores, task.consensus)}
    return sum(_cross_entropy(x, batch["labels"][name], batch["weights"][name]) for name, x in logits.items())


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none", ignore_index=-1)
    return (losses * weights.flatten()).sum() / weights.sum().clamp(min=1e-9)


def _autocast(model: PeerModel, device_type: str) -> Any:
    is_mixed = model.compute_dtype == torch.bfloat16
    return torch.autocast(device_type, torch.bfloat16, enabled=is_mixed)


class Trainer:
    """The train step: gradients, clipping, AdamW; nothing in it waits for the device."""

    def __init__(self, model: PeerModel, task: Task, *, num_steps: int, compile_mode: str | None = None):
        if isinstance(task, Retrieval) and task.loss != "ce":
            raise ValueError("The peer trains retrieval with cross-entropy only.")
        self.model, self.task = model, task
        self.num_updates = 0
        self._loss = compiled(lambda *args: loss_of(model, task, *args), compile_mode)
        config = OptimizerConfig()
        self._max_grad_norm = config.max_grad_norm
        self.rates = {
            group: np.broadcast_to(schedule(np.arange(num_steps)), num_steps).tolist()
            for group, schedule in make_schedules(config, num_steps).items()
        }
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, config.weight_decay),
            lr=0.0,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            fused=True,
        )
        self._parameters = [x for x in model.parameters() if x.requires_grad]

    def step(self, batch: Tensors, sampled_tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Update the model; return the loss and the norm of the gradient before clipping, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[group["name"]][self.num_updates]
        self.num_updates += 1
        if sampled_tokens is None:
            sampled_tokens = self._draw_tokens(batch["frames"])
        loss = self._loss(batch, sampled_tokens)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norm

    def _draw_tokens(self, frames: Tensor) -> Tensor | None:
        num_sampled = self.task.num_sampled_tokens
        if not num_sampled:
            return None
        num_tokens = math.prod(grid_size(self.model.config.pixel_encoder, *frames.shape[3:5]))
        # Not torch.randperm, which for few elements is drawn on the host.
        order = torch.rand(num_tokens, device=frames.device).argsort()
        return order[:num_sampled].sort().values


def _parameter_groups(model: PeerModel, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups of AdamW with our names; all but biases and the scales of norms decay."""
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "pixel_encoder" if name.startswith("cnn.feature.") else "transformer"
            part = "grid_encoder" if name.startswith("cnn.grid_encoder.") else part
            groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {"name": part, "params": parameters, "weight_decay": weight_decay if is_decayed else 0.0}
        for (part, is_decayed), parameters in groups.items()
    ]


def compiled(function: Callable[..., Any], mode: str | None) -> Callable[..., Any]:
    """Compile for fixed shapes into one graph, or leave the function as it is if there is no mode."""
    return function if mode is None else torch.compile(function, mode=mode, fullgraph=True, dynamic=False)


def match_logits(model: PeerModel, task: Task, batch: Tensors) -> Tensor:
    """Return what texts are ranked by [b n], from frames or from `visual_tokens` at hand."""
    with _autocast(model, batch["text_ids"].device.type):
        visual_tokens = batch.get("visual_tokens")
        if visual_tokens is None:
            visual_tokens = model.encode_video(batch["frames"])
        scores, _ = model.transformer(visual_tokens, batch["text_ids"], batch["text_mask"])
    logits = pool_clips(scores, task.consensus)
    return logits[..., 0] if logits.shape[-1] == 1 else logits[..., 1] - logits[..., 0]


@torch.no_grad()
def with_visual_tokens(model: PeerModel, batch: Tensors) -> Tensors:
    """Replace the frames of a batch by their visual tokens [b k v d]."""
    with _autocast(model, batch["frames"].device.type):
        tokens = [model.encode_video(frames[None]) for frames in batch["frames"]]
    rest = {name: x for name, x in batch.items() if name != "frames"}
    return {**rest, "visual_tokens": torch.cat(tokens)}


def our_token_sample(workload: Workload, device: str, step: int = 0) -> Tensor | None:
    """Return the visual tokens that our train step with seed 0 takes; None if it takes all."""
    if not workload.task.num_sampled_tokens:
        return None
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step), _TOKEN_SAMPLE)
    num_tokens = math.prod(grid_size(workload.model.pixel_encoder, workload.size, workload.size))
    sample = draw_token_sample(key, num_tokens, workload.task.num_sampled_tokens)
    return torch.from_numpy(np.array(sample, np.int64)).to(device)


def first_losses(
    workload: Workload,
    state: State,
    batch: Batch,
    *,
    num_steps: int = 1,
    dropout: bool = False,
    device: str = "cpu",
) -> dict[str, float]:
    """Train eagerly on one batch, to be compared with our model.

    Args:
      workload: says task and model; its batch is not read.
      state: the first weights, by their original names.
      batch: the same in every step.
      num_steps: updates, of a schedule of 100.
      dropout: apply the model's rates.
      device: of torch.

    Returns:
      `loss` and `grad_norm` of the first step, and `next_loss` after the updates.
    """
    model = make_model(workload, state, device, dropout=dropout)
    trainer = Trainer(model, workload.task, num_steps=100)
    tensors = device_batch(workload.task, batch, device)
    steps = [trainer.step(tensors, our_token_sample(workload, device, step)) for step in range(num_steps + 1)]
    return {
        "loss": float(steps[0][0]),
        "grad_norm": float(steps[0][1]),
        "next_loss": float(steps[-1][0]),
    }


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
