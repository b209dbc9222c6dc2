"""What a ClipBERT costs, layer by layer: operations, bytes of device memory and parameters.

    costs = model_costs(config, task.head, BatchShape(...))
    roofline(costs, DEVICES["h100"]).seconds

Beside the model, not in the path of a batch: all of it follows from a config and the shape of a batch, and
nothing is traced or run. `work.py` says what is counted, `pixel_encoder.py` and `fusion.py` list the layers,
`devices.py` makes of the costs the time that a device needs at least. Letters as in `models/clipbert.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.costs.fusion import embedding_layers, fusion_layers, head_layers
from clipbert_jax.costs.pixel_encoder import pixel_encoder_layers
from clipbert_jax.costs.sizes import BatchShape, Sizes
from clipbert_jax.costs.work import DEFAULT_ASSUMPTIONS, Assumptions, Counter, LayerCost, Work
from clipbert_jax.models.heads import HeadConfig

ComputeDtype = Literal["float32", "bfloat16", "float64"]
_ELEMENT_BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """All layers in the order of the forward pass, the optimizer last. Numbers are of the whole batch."""

    layers: tuple[LayerCost, ...]
    compute_dtype: ComputeDtype

    @property
    def flops(self) -> int:
        """Of all works."""
        return sum(work.flops for layer in self.layers for work in layer.works.values())

    @property
    def bytes(self) -> int:
        """Of all works, passes included."""
        return sum(work.total_bytes for layer in self.layers for work in layer.works.values())

    @property
    def num_parameters(self) -> int:
        """Of all layers that take part, frozen ones and fixed statistics too."""
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def num_trained(self) -> int:
        """Parameters that training changes."""
        return sum(layer.num_trained for layer in self.layers)


def model_costs(
    config: ClipBertConfig,
    head: HeadConfig,
    shape: BatchShape,
    assumptions: Assumptions = DEFAULT_ASSUMPTIONS,
) -> Costs:
    """Return what one train step, or one call of the model, costs.

    Args:
      config: the model.
      head: that its task needs (`task.head`).
      shape: of the batch, and whether it is trained on.
      assumptions: which kernels there are.
    """
    sizes = Sizes(config, shape)
    element_bytes = _ELEMENT_BYTES[config.compute_dtype]
    counter = Counter(
        element_bytes=element_bytes,
        parameter_bytes=max(4, element_bytes),
        is_training=shape.is_training,
        assumptions=assumptions,
    )
    layers = list(pixel_encoder_layers(counter, sizes)) if shape.encodes_video else []
    layers += embedding_layers(counter, sizes)
    layers += fusion_layers(counter, sizes, head)
    layers += head_layers(counter, sizes, head)
    if shape.is_training:
        layers.append(_optimizer(counter, sum(layer.num_trained for layer in layers)))
    return Costs(layers=tuple(layers), compute_dtype=config.compute_dtype)


def _optimizer(counter: Counter, num_trained: int) -> LayerCost:
    """AdamW: clipping reads the gradients; the update reads all of four arrays and writes three.

    They are gradients, parameters and two moments. See `training/optimizer.py`.
    """
    num_bytes = (1 + 4 + 3) * num_trained * counter.parameter_bytes
    return LayerCost(name="optimizer", stage="optimizer", update=Work(bytes=num_bytes))
