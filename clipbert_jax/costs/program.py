"""Traced programs as one list of operations: calls are written out, views and dead equations are dropped.

`read_program` is the one walk over a jaxpr that all costs come from. It knows no layer of a model, so it
holds for any encoder or head that JAX can trace. `kernels.py` takes its result.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import Literal as Constant

from clipbert_jax.costs.devices import Platform

Purpose = Literal["forward", "backward", "recomputed", "update"]

PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
_LOOPS = frozenset({"scan", "while"})
_COMPARISONS = frozenset({"eq", "ge", "gt", "le", "lt", "ne"})
# They move nothing if input and output have the same size.
VIEWS = frozenset(
    [
        "broadcast_in_dim",
        "copy",
        "pad",
        "reshape",
        "reshard",
        "rev",
        "sharding_constraint",
        "slice",
        "split",
        "squeeze",
        "stop_gradient",
        "transpose",
    ]
)


@dataclasses.dataclass(eq=False)
class Value:
    """Array of a program."""

    num_elements: int
    element_bytes: int
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
    """Name of JAX's primitive."""
    purpose: Purpose
    position: int
    """Place in the order of the program."""
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    flops: int = 0
    num_read: int | None = None
    """Number of elements that are read of the first input; None: all of them."""
    body: TracedProgram | None = None
    """Operations of one turn of a loop, or of one branch."""
    num_turns: int = 1


@dataclasses.dataclass
class TracedProgram:
    """Operations in the order of the equations."""

    inputs: list[Value]
    outputs: list[Value]
    operations: list[Operation]


def read_program(
    jaxpr: ClosedJaxpr,
    *,
    platform: Platform = "gpu",
    is_training: bool = True,
    sizes: Mapping[int, int] | None = None,
) -> TracedProgram:
    """Return the operations of a traced program.

    The name stack that JAX gives to equations tells their purpose. Of branches the one with most products
    counts. A `while` loop counts as one turn.

    Args:
      jaxpr: from `jax.make_jaxpr`, or `.jaxpr` of a traced function.
      platform: on `cpu` XLA has no products of bfloat16 and reads their operands as float32. It also compares
        what a maximum with a constant was given, not what it gave.
      is_training: whether equations outside of the gradient are the update, or else the forward pass.
      sizes: prime number that the program was traced with as a size -> number to put in its place. One trace
        then stands for batches of all sizes.
    """
    reader = _Reader("update" if is_training else "forward", platform == "cpu", sizes or {})
    return reader.program(jaxpr.jaxpr, scope="")


def count_flops(program: TracedProgram, *purposes: Purpose) -> int:
    """Return the operations of products, for all purposes or for some.

    A multiplication with its addition is 2. Products with padded zeros count, as kernels compute them.
    """
    total = 0
    for operation in program.operations:
        if operation.body:
            total += operation.num_turns * count_flops(operation.body, *purposes)
        elif not purposes or operation.purpose in purposes:
            total += operation.flops
    return total


class _Reader:
    """Reads the equations of one program and of those inside of it."""

    def __init__(self, outside: Purpose, is_cpu: bool, sizes: Mapping[int, int]):
        self._outside: Purpose = outside
        self._is_cpu, self._sizes = is_cpu, sizes
        self._bounded: dict[Value, Value] = {}

    def program(self, jaxpr: Jaxpr, scope: str) -> TracedProgram:
        """Read the whole, or the body of a loop."""
        values = {var: self._value(var) for var in (*jaxpr.constvars, *jaxpr.invars)}
        inputs, operations = list(values.values()), list[Operation]()
        self._read(jaxpr, values, scope, operations)
        outputs = [values[var] for var in jaxpr.outvars if not isinstance(var, Constant)]
        program = _without_dead(TracedProgram(inputs, outputs, operations))
        for operation in program.operations:
            for value in operation.inputs if operation.name in PRODUCTS and self._is_cpu else ():
                value.element_bytes = max(value.element_bytes, 4)
        return program

    def _read(self, jaxpr: Jaxpr, values: dict[Any, Value], scope: str, operations: list[Operation]) -> None:
        """Append the operations of a program, given the values of its variables so far."""
        for equation in jaxpr.eqns:
            inputs = [self._value(x) if isinstance(x, Constant) else values[x] for x in equation.invars]
            outputs = [self._value(x) for x in equation.outvars]
            inner_scope = f"{scope}/{equation.source_info.name_stack}"
            programs, name = list(_programs_inside(equation)), equation.primitive.name
            if self._is_cpu and name in _COMPARISONS:
                inputs = [self._bounded.get(value, value) for value in inputs]
            if name in VIEWS and outputs[0].num_bytes == inputs[0].num_bytes:
                outputs = inputs[:1]
            elif len(programs) == 1 and name not in _LOOPS and len(programs[0].invars) == len(inputs):
                outputs = self._call(programs[0], inputs, inner_scope, operations)
            else:
                operation = self._operation(equation, inputs, outputs, inner_scope)
                bodies = [self.program(inner, inner_scope) for inner in programs]
                operation.body = max(bodies, key=count_flops, default=None)
                operations.append(operation)
                if name == "max" and isinstance(equation.invars[1], Constant):
                    self._bounded[outputs[0]] = inputs[0]
            values.update(zip(equation.outvars, outputs, strict=True))

    def _call(
        self, jaxpr: Jaxpr, inputs: list[Value], scope: str, operations: list[Operation]
    ) -> list[Value]:
        values = {var: self._value(var) for var in jaxpr.constvars}
        values.update(zip(jaxpr.invars, inputs, strict=True))
        self._read(jaxpr, values, scope, operations)
        return [self._value(x) if isinstance(x, Constant) else values[x] for x in jaxpr.outvars]

    def _operation(self, equation: Any, inputs: list[Value], outputs: list[Value], scope: str) -> Operation:
        return Operation(
            name=equation.primitive.name,
            purpose=self._purpose(scope),
            position=0,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            flops=self._sized(_flops(equation)),
            num_read=self._sized_or_none(_num_read(equation)),
            num_turns=self._sized(equation.params.get("length", 1))
            if equation.primitive.name == "scan"
            else 1,
        )

    def _purpose(self, scope: str) -> Purpose:
        if "rematted_computation" in scope:
            return "recomputed"
        if "transpose(" in scope:
            return "backward"
        return "forward" if "jvp(" in scope else self._outside

    def _value(self, var: Any) -> Value:
        size = math.prod(getattr(var.aval, "shape", ()))
        dtype = getattr(var.aval, "dtype", None)
        return Value(self._sized(size), getattr(dtype, "itemsize", 0))

    def _sized_or_none(self, number: int | None) -> int | None:
        return None if number is None else self._sized(number)

    def _sized(self, number: int) -> int:
        """Put the sizes that are wanted in the place of the primes."""
        factor = 1
        for traced, wanted in self._sizes.items():
            while number and number % traced == 0:
                number, factor = number // traced, factor * wanted
        return number * factor


def _programs_inside(equation: Any) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _flops(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval, equation.outvars[0].aval
        # The gradient of a strided convolution is one of an input with holes: only a share of it counts.
        num_holes = math.prod(equation.params["lhs_dilation"])
        return 2 * out.size * (kernel.size // _out_features(equation)) // num_holes
    return 0


def _num_read(equation: Any) -> int | None:
    """Return how many elements a product or a lookup reads of its first input; wide strides skip some."""
    out = equation.outvars[0].aval if equation.outvars else None
    if equation.primitive.name == "gather" and out is not None:
        return out.size
    if equation.primitive.name != "conv_general_dilated" or out is None:
        return None
    features = _out_features(equation)
    window = equation.invars[1].aval.size // features
    return min(equation.invars[0].aval.size, out.size // features * window)


def _out_features(equation: Any) -> int:
    return equation.invars[1].aval.shape[equation.params["dimension_numbers"].rhs_spec[0]]


def _without_dead(program: TracedProgram) -> TracedProgram:
    """Drop the operations that no output needs, number the others, and note who uses which value."""
    needed = set(program.outputs)
    kept = []
    for operation in reversed(program.operations):
        if not needed.isdisjoint(operation.outputs):
            needed.update(operation.inputs)
            kept.append(operation)
    for value in program.outputs:
        value.is_output = True
    for position, operation in enumerate(reversed(kept)):
        operation.position = position
        for value in dict.fromkeys(operation.inputs):
            value.users.append(operation)
    return TracedProgram(program.inputs, program.outputs, kept[::-1])
