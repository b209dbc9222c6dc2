"""Model FLOPs utilization (MFU): what share of the devices' arithmetic peak the train step uses.

Beside the loop. Operations come from `costs`, for the shape of a batch, the length of its texts included: the
products of the forward pass and of the gradients that are needed, once each, whatever is computed again.
Peaks are those of `costs/devices.py`: of some devices what products reach, less than their makers promise.
"""

from __future__ import annotations

from collections.abc import Callable

from flax import nnx
from jax.sharding import Mesh

from clipbert_jax.batch import Batch
from clipbert_jax.costs.devices import Device, known_device
from clipbert_jax.costs.model import ComputeDtype, model_costs
from clipbert_jax.costs.sizes import BatchShape
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.tasks.task import Task

StepFlops = Callable[[Batch], int]


class Utilization:
    """Knows the peak of all devices together, and how many operations the step of a batch is.

    Attributes:
      note: why it can't tell the utilization; empty if it can.
    """

    def __init__(self, step_flops: StepFlops | None, peak_flops: float | None, note: str = "") -> None:
        """Take the operations of a step, and the operations a second of all devices; None if not known."""
        self._step_flops, self._peak_flops, self.note = step_flops, peak_flops, note

    def flops(self, batch: Batch) -> int:
        """Return the operations of a step; 0 where the utilization can't be told."""
        return 0 if self._step_flops is None or self.note else self._step_flops(batch)

    def share(self, flops: int, seconds: float) -> float | None:
        """Return what share of the peak so many operations are; None if it can't be told."""
        return None if self._peak_flops is None or self.note else flops / (seconds * self._peak_flops)


def make_utilization(
    model: nnx.Module, task: Task, mesh: Mesh, *, has_frozen_parts: bool = False
) -> Utilization:
    """Return the utilization of a training.

    Args:
      model: says by its config what is computed and in which arithmetic.
      task: says by its head.
      mesh: all devices, of one kind.
      has_frozen_parts: whether parts are frozen of which the config knows nothing.
    """
    if not isinstance(model, ClipBert):
        return Utilization(None, None, "MFU is left out: the operations of this model are not known")
    if has_frozen_parts:
        return Utilization(None, None, "MFU is left out: it does not know what --train.frozen-parts saves")
    kind, dtype = mesh.devices.flat[0].device_kind, model.config.compute_dtype
    peak = _peak_flops(known_device(kind), dtype)
    if peak is None:
        return Utilization(None, None, f"MFU is left out: no {dtype} peak is known of a {kind} device")
    return Utilization(_counter(model, task), peak * mesh.devices.size)


def _peak_flops(device: Device | None, dtype: ComputeDtype) -> float | None:
    if device is None:
        return None
    return {"bfloat16": device.bf16_flops, "float32": device.fp32_flops, "float64": None}[dtype]


def _counter(model: ClipBert, task: Task) -> StepFlops:
    """Return a function that counts each shape once."""
    counted: dict[BatchShape, int] = {}

    def step_flops(batch: Batch) -> int:
        num_videos, num_clips, num_frames, height, width, _ = batch.frames.shape
        _, num_texts, text_length = batch.text_ids.shape
        shape = BatchShape(
            num_videos=num_videos,
            num_clips=num_clips,
            num_frames=num_frames,
            height=height,
            width=width,
            num_texts=num_texts,
            text_length=text_length,
            num_sampled_tokens=task.num_sampled_tokens,
            is_training=True,
        )
        if shape not in counted:
            counted[shape] = model_costs(model.config, task.head, shape).flops
        return counted[shape]

    return step_flops
