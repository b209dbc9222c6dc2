"""The work of one layer: operations and bytes, of the forward pass and of both gradients.

`pixel_encoder.py` and `fusion.py` describe the layers of a model as products (convolutions, dense layers) and
as elementwise layers; here each becomes a `LayerCost`.

Operations are those of products, a multiplication with its addition as 2. At borders the products with padded
zeros count: kernels do them, though XLA's own count leaves them out. Elementwise arithmetic has no operations
here: memory bounds it everywhere, and the peaks of devices are those of their matrix units.

Bytes are the least that one kernel for each product of the forward pass and of either gradient has to move:
every input is read once (of a strided 1x1 convolution the places that it uses), every output is written once.
Activations have the compute dtype, parameters and their gradients float32. Dropout draws its masks where it
needs them; gradients of biases, and arrays of a few numbers for each text, are left out.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

WorkName = Literal["forward", "input_gradient", "weight_gradient", "update"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What kernels do in one go. The rest is a pass of its own, which reads and writes the array again."""

    fused_epilogues: bool = True
    """Scaling of pixels, biases, residuals, ReLU and GELU happen within the products of the forward pass."""
    fused_gradients: bool = False
    """Derivatives of ReLU and GELU, and sums of gradients, happen within the products of the backward pass.
    Without, one pass does both, as in what XLA makes of the step."""
    materialized_attention: bool = True
    """Scores and probabilities go through memory, as einsums let them; fused attention keeps them on the
    chip."""
    trimmed_last_layer: bool = True
    """The last fusion layer computes only the tokens that a head reads (`KernelChoices.trims_last_layer`)."""


DEFAULT_ASSUMPTIONS = Assumptions()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What has to be done for one array of results."""

    flops: int = 0
    bytes: int = 0
    """Moved while the operations run."""
    pass_bytes: int = 0
    """Moved by passes of their own, before or after."""

    @property
    def total_bytes(self) -> int:
        """Moved in all."""
        return self.bytes + self.pass_bytes


NO_WORK = Work()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One layer. Works that do not happen, as gradients of frozen layers, are empty."""

    name: str
    """Such as `res3.0.conv1` or `fusion.11.qkv`."""
    stage: str
    """`stem`, `res2`, ..., `grid_encoder`, `embeddings`, `fusion`, `head` or `optimizer`."""
    num_parameters: int = 0
    """Frozen ones and fixed statistics too. The word table is part of the embeddings, not of the head."""
    num_trained: int = 0
    forward: Work = NO_WORK
    input_gradient: Work = NO_WORK
    weight_gradient: Work = NO_WORK
    update: Work = NO_WORK

    @property
    def works(self) -> dict[WorkName, Work]:
        """By name, in the order in which they happen."""
        return {
            "forward": self.forward,
            "input_gradient": self.input_gradient,
            "weight_gradient": self.weight_gradient,
            "update": self.update,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """A convolution or a dense layer: `num_rows` places of the output, each made of a window of the input."""

    name: str
    stage: str
    num_rows: int
    in_features: int
    out_features: int
    window: int = 1
    """Places of the input that one of the output sees."""
    num_input_rows: int | None = None
    """Places of the input, if they are not as many as those of the output."""
    num_parameters: int | None = None
    """None stands for a kernel and a bias."""
    num_trained: int | None = None
    """Of the parameters; None stands for all."""
    has_input_gradient: bool = True
    has_epilogue: bool = True
    """Whether something is done to the output before the next layer reads it."""
    num_residuals: int = 0
    """Arrays that the epilogue adds."""
    num_saved: int = 0
    """Arrays that a fused epilogue writes besides in training: what an activation was given."""
    num_gates: int = 0
    """Arrays which the gradient of the input is added to, or multiplied with the derivative of."""
    input_bytes: int | None = None
    """Of one number, if not those of the compute dtype."""
    output_bytes: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counter:
    """Counts layers of one model under the same assumptions."""

    element_bytes: int
    """Of the compute dtype."""
    parameter_bytes: int
    is_training: bool
    assumptions: Assumptions

    def elementwise(
        self,
        name: str,
        stage: str,
        *,
        forward: int,
        backward: int = 0,
        num_looked_up: int = 0,
        num_parameters: int = 0,
    ) -> LayerCost:
        """Return a layer that moves so many numbers of the compute dtype, and looks some parameters up."""
        num_backward, num_trained = (backward, num_parameters) if self.is_training else (0, 0)
        parameters_read = num_looked_up * self.parameter_bytes
        return LayerCost(
            name=name,
            stage=stage,
            num_parameters=num_parameters,
            num_trained=num_parameters,
            forward=Work(bytes=forward * self.element_bytes + parameters_read),
            input_gradient=Work(bytes=num_backward * self.element_bytes),
            weight_gradient=Work(bytes=num_trained * self.parameter_bytes),
        )

    def product(self, layer: Product) -> LayerCost:
        """Return the cost of a product, with its epilogue and what its gradient is joined with."""
        num_weights = layer.window * layer.in_features * layer.out_features
        num_parameters = layer.num_parameters
        if num_parameters is None:
            num_parameters = num_weights + layer.out_features
        num_trained = num_parameters if layer.num_trained is None else layer.num_trained
        forward, input_gradient, weight_gradient = self._product_works(layer, num_weights)
        has_input_gradient = self.is_training and layer.has_input_gradient
        return LayerCost(
            name=layer.name,
            stage=layer.stage,
            num_parameters=num_parameters,
            num_trained=num_trained,
            forward=forward,
            input_gradient=input_gradient if has_input_gradient else NO_WORK,
            weight_gradient=weight_gradient if self.is_training and num_trained else NO_WORK,
        )

    def _product_works(self, layer: Product, num_weights: int) -> tuple[Work, Work, Work]:
        """Return the forward pass and both gradients, whether they are needed or not."""
        flops = 2 * layer.num_rows * num_weights
        num_inputs = (layer.num_input_rows or layer.num_rows) * layer.in_features
        # Windows overlap, or skip places where the stride is wider.
        num_read = min(num_inputs, layer.num_rows * layer.window * layer.in_features)
        read = num_read * (layer.input_bytes or self.element_bytes)
        written = layer.num_rows * layer.out_features * (layer.output_bytes or self.element_bytes)
        shared = read + written + num_weights * self.parameter_bytes
        epilogue = self._epilogue(layer, written)
        join = self._gradient_join(layer, num_inputs * self.element_bytes)
        return (
            Work(flops=flops, bytes=shared + epilogue.bytes, pass_bytes=epilogue.pass_bytes),
            Work(flops=flops, bytes=shared - read + join.bytes, pass_bytes=join.pass_bytes),
            Work(flops=flops, bytes=shared),
        )

    def _epilogue(self, layer: Product, written: int) -> Work:
        """Return what is moved for residual and activation, `written` being the bytes of the output."""
        if not layer.has_epilogue:
            return NO_WORK
        num_saved = layer.num_saved if self.is_training else 0
        if self.assumptions.fused_epilogues:
            return Work(bytes=written * (layer.num_residuals + num_saved))
        return Work(pass_bytes=written * (2 + layer.num_residuals))

    def _gradient_join(self, layer: Product, gradient: int) -> Work:
        """Return what is moved to write the gradient of the input, of so many bytes, and to join others."""
        if self.assumptions.fused_gradients or not layer.num_gates:
            return Work(bytes=gradient * (1 + layer.num_gates))
        return Work(bytes=gradient, pass_bytes=gradient * (2 + layer.num_gates))
