"""A traced program as one list of operations: calls are written out, dead ones are gone, views are no operations.

`read_program` is the one walk over a jaxpr that everything in this room starts from. It knows no layer of a
model: what it says holds for any encoder or head that JAX can trace.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal as JaxLiteral

Purpose = Literal["forward", "backward", "recomputed", "update"]

PRODUCTS = {"dot_general", "conv_general_dilated"}
_VIEWS = {"reshape", "transpose", "squeeze", "copy", "stop_gradient", "sharding_constraint", "reshard", "rev", "pad", "slice", "broadcast_in_dim", "split"}
_LOOPS = {"scan", "while"}


@dataclasses.dataclass(eq=False)
class Value:
    """Array of a program."""

    num_elements: int
    element_bytes: int
    producer: Operation | None = None
    """Operation that computes it; None for inputs of the program."""
    users: list[Operation] = dataclasses.field(default_factory=list)
    is_output: bool = False

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return self.num_elements * self.element_bytes


@dataclasses.dataclass(eq=False)
class Operation:
    """Equation that computes something."""

    name: str
    purpose: Purpose
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    flops: int = 0
    num_read: int | None = None
    """Elements of the first input that are read, if not all."""
    body: Program | None = None
    """What a loop or a branch does in one turn."""
    num_turns: int = 1
    position: int = 0


@dataclasses.dataclass
class Program:
    """Operations in the order in which they were written."""

    inputs: list[Value]
    outputs: list[Value]
    operations: list[Operation]


def read_program(jaxpr: ClosedJaxpr | Jaxpr, *, is_training: bool = True) -> Program:
    """Return the operations of a traced program.

    Args:
      jaxpr: from `jax.make_jaxpr` or `jitted.trace(...).jaxpr`.
      is_training: whether what belongs to no gradient is the optimizer's update, or the forward pass.
    """
    return _Reader("update" if is_training else "forward").program(getattr(jaxpr, "jaxpr", jaxpr), "")


class _Reader:
    def __init__(self, outside: Purpose):
        self.outside: Purpose = outside

    def program(self, jaxpr: Jaxpr, scope: str) -> Program:
        """Read a program of its own: the whole, or the body of a loop."""
        values: dict[Any, Value] = {var: _value(var) for var in (*jaxpr.constvars, *jaxpr.invars)}
        inputs = [values[var] for var in (*jaxpr.constvars, *jaxpr.invars)]
        operations: list[Operation] = []
        self._inline(jaxpr, values, scope, operations)
        outputs = [values[var] for var in jaxpr.outvars if not isinstance(var, JaxLiteral)]
        return _without_dead(Program(inputs, outputs, operations))

    def _inline(self, jaxpr: Jaxpr, values: dict[Any, Value], scope: str, operations: list[Operation]) -> None:
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            inner_scope = f"{scope}/{equation.source_info.name_stack}"
            inputs = [values.get(var) if not isinstance(var, JaxLiteral) else None for var in equation.invars]
            if name in _VIEWS and _num_bytes(equation.outvars[0]) == inputs_bytes(equation):
                if inputs[0] is not None:
                    values[equation.outvars[0]] = inputs[0]
                else:
                    values[equation.outvars[0]] = _value(equation.outvars[0])
                continue
            inner = [part for _, part in _inner_programs(equation)]
            if len(inner) == 1 and name not in _LOOPS and len(inner[0].invars) == len(equation.invars):
                called = {var: _value(var) for var in inner[0].constvars}
                for var, outer, value in zip(inner[0].invars, equation.invars, inputs, strict=True):
                    called[var] = value if value is not None else _value(outer)
                self._inline(inner[0], called, inner_scope, operations)
                for var, result in zip(equation.outvars, inner[0].outvars, strict=True):
                    values[var] = _value(result) if isinstance(result, JaxLiteral) else called[result]
                continue
            outputs = tuple(_value(var) for var in equation.outvars)
            operation = Operation(
                name=name,
                purpose=self._purpose(inner_scope),
                inputs=tuple(value for value in inputs if value is not None),
                outputs=outputs,
                flops=_flops(equation),
                num_read=_num_read(equation),
            )
            if inner:
                bodies = [self.program(part, inner_scope) for part in inner]
                operation.body = max(bodies, key=count_flops)
                operation.num_turns = equation.params.get("length", 1)
            for value in outputs:
                value.producer = operation
            values.update(zip(equation.outvars, outputs, strict=True))
            operations.append(operation)

    def _purpose(self, scope: str) -> Purpose:
        if "rematted_computation" in scope:
            return "recomputed"
        if "transpose(" in scope:
            return "backward"
        return "forward" if "jvp(" in scope else self.outside


def _value(var: Any) -> Value:
    size = math.prod(getattr(var.aval, "shape", ()))
    return Value(size, getattr(getattr(var.aval, "dtype", None), "itemsize", 0))


def _num_bytes(var: Any) -> int:
    return _value(var).num_bytes


def inputs_bytes(equation: Any) -> int:
    return _num_bytes(equation.invars[0])


def _inner_programs(equation: Any) -> Iterator[tuple[str, Jaxpr]]:
    for name, value in equation.params.items():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield name, item.jaxpr
            elif isinstance(item, Jaxpr):
                yield name, item


def _flops(equation: Any) -> int:
    """Return the operations of a product; a multiplication with its addition is 2."""
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval, equation.outvars[0].aval
        out_features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        # The gradient of a strided convolution is one of an input with holes: only a share of it counts.
        num_holes = math.prod(equation.params["lhs_dilation"])
        return 2 * out.size * (kernel.size // out_features) // num_holes
    return 0


def _num_read(equation: Any) -> int | None:
    """Return the elements of the input that a convolution reads: wide strides skip some."""
    if equation.primitive.name != "conv_general_dilated":
        return None
    kernel, out = equation.invars[1].aval, equation.outvars[0].aval
    spec = equation.params["dimension_numbers"]
    out_features = kernel.shape[spec.rhs_spec[0]]
    return min(equation.invars[0].aval.size, out.size // out_features * (kernel.size // out_features))


def _without_dead(program: Program) -> Program:
    """Drop operations that no output needs; note who uses what."""
    for value in program.outputs:
        value.is_output = True
    needed = {id(value) for value in program.outputs}
    kept = []
    for operation in reversed(program.operations):
        if any(id(value) in needed for value in operation.outputs):
            needed |= {id(value) for value in operation.inputs}
            kept.append(operation)
    kept.reverse()
    for position, operation in enumerate(kept):
        operation.position = position
        for value in dict.fromkeys(operation.inputs):
            value.users.append(operation)
    return Program(program.inputs, program.outputs, kept)


def count_flops(program: Program, purposes: Sequence[Purpose] = ()) -> int:
    """Return the operations of products, of all purposes or of some."""
    return sum(
        operation.num_turns * count_flops(operation.body, purposes)
        if operation.body
        else operation.flops * (not purposes or operation.purpose in purposes)
        for operation in program.operations
    )
