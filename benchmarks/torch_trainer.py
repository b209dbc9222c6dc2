"""Losses, updates and scores of the PyTorch peer: `torch_model.py` trained and evaluated as our model is.

Nothing in a step waits for the device. Masked-language-model steps take random visual tokens; a caller may
hand over those that our train step takes. `torch_peer.py` times the steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]

from benchmarks.torch_model import PeerModel, load_original
from benchmarks.workloads import Workload
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
