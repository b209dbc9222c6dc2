"""Model FLOPs utilization (MFU): the share of the devices' arithmetic peak that the train step uses.

The training loop makes it, the reporter asks it. Operations are counted in the traced step: products of the
forward pass and of the gradients, once each; what is computed again does not count. Peaks are those of
`costs/devices.py`: for some devices what products reach, less than their makers promise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from clipbert_jax.batch import Batch
from clipbert_jax.costs.devices import known_device
from clipbert_jax.costs.program import count_flops, read_program
from clipbert_jax.models.clipbert import ClipBert

StepFlops = Callable[[Batch], int]


class Utilization:
    """Knows the peak of all devices together, and the number of operations of a step.

    Attributes:
      note: why the utilization is not known; empty if it is.
    """

    def __init__(self, step_flops: StepFlops | None, peak_flops: float | None, note: str = "") -> None:
        """Take the operations of a step, and the operations a second of all devices; None if not known."""
        self._step_flops, self._peak_flops, self.note = step_flops, peak_flops, note

    def flops(self, batch: Batch) -> int:
        """Return the operations of a step; 0 where the utilization is not known."""
        return 0 if self._step_flops is None or self.note else self._step_flops(batch)

    def share(self, flops: int, seconds: float) -> float | None:
        """Return the share of the peak that so many operations are; None if it is not known."""
        return None if self._peak_flops is None or self.note else flops / (seconds * self._peak_flops)


def make_utilization(model: nnx.Module, mesh: Mesh, train_step: Any, state: Any) -> Utilization:
    """Return the utilization of a training.

    Args:
      model: its config names the dtype of the arithmetic.
      mesh: all devices, of one kind.
      train_step: jitted; tracing it costs nothing when it has seen a batch of that shape.
      state: train state, of which only the shapes are kept.
    """
    if not isinstance(model, ClipBert):
        return Utilization(None, None, "MFU is left out: the arithmetic of this model is not known")
    kind, dtype = mesh.devices.flat[0].device_kind, model.config.compute_dtype
    device = known_device(kind)
    peak = {"bfloat16": device.bf16_flops, "float32": device.fp32_flops}.get(dtype) if device else None
    if peak is None:
        return Utilization(None, None, f"MFU is left out: no {dtype} peak is known of a {kind} device")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    return Utilization(_counter(train_step, shapes), peak * mesh.devices.size)


def _counter(train_step: Any, state: Any) -> StepFlops:
    """Return a function that counts each shape once."""
    counted: dict[tuple[tuple[int, ...], ...], int] = {}

    def step_flops(batch: Batch) -> int:
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        if shapes not in counted:
            program = read_program(train_step.trace(state, batch).jaxpr)
            counted[shapes] = count_flops(program, "forward", "backward")
        return counted[shapes]

    return step_flops
