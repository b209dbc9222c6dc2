"""Kernels that a compiler would make of a traced program: what each reads from memory, and what it writes.

Takes the operations of `program.py`; `step_cost.py` adds the kernels up. The rules are few and general:

- A product is a kernel, and so is a loop, a lookup, a draw of random numbers. Element-wise operations on its
  result alone are part of it; on the way back that ends where another array of that size joins.
- Other element-wise operations, and reductions, are passes. Passes over the same array are one pass.
- Operands of products, and results that cost many instructions, are arrays in memory. Any other element-wise
  value is computed again by each kernel that reads it, if it is made from one array of its size. A CPU's
  compiler computes it once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from clipbert_jax.costs.devices import Platform
from clipbert_jax.costs.program import VIEWS, Operation, Purpose, TracedProgram, Value

_CHEAP = VIEWS | frozenset(
    [
        "abs",
        "add",
        "add_any",
        "and",
        "bitcast_convert_type",
        "ceil",
        "clamp",
        "concatenate",
        "convert_element_type",
        "div",
        "eq",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "integer_pow",
        "iota",
        "is_finite",
        "le",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "not",
        "or",
        "random_fold_in",
        "random_seed",
        "random_unwrap",
        "random_wrap",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sqrt",
        "square",
        "sub",
        "xor",
    ]
)
_MANY_INSTRUCTIONS = frozenset(
    ["cos", "erf", "erf_inv", "erfc", "log", "log1p", "logistic", "pow", "sin", "tanh"]
)
_ELEMENTWISE = _CHEAP | _MANY_INSTRUCTIONS
_REDUCTIONS = frozenset(
    ["argmax", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum"]
)
_FUSED = _ELEMENTWISE | _REDUCTIONS

Reads = dict[Value, int]
"""Arrays in memory, each with the number of elements that are read."""


@dataclasses.dataclass(eq=False)
class OpCost:
    """Cost of one kernel."""

    purpose: Purpose
    position: int | float
    """Place in the order of the program."""
    is_pass: bool = False
    """Whether it has neither products nor anything else but element-wise operations and reductions."""
    is_draw: bool = False
    """Whether it draws random numbers, which waits for nothing."""
    flops: int = 0
    operand_bytes: int = 0
    """Bytes of an element of the operands of its product."""
    reads: Reads = dataclasses.field(default_factory=dict)
    writes: list[Value] = dataclasses.field(default_factory=list)
    body: list[OpCost] = dataclasses.field(default_factory=list)
    """Kernels of one turn of a loop."""
    num_turns: int = 1

    @property
    def num_bytes(self) -> int:
        """Bytes moved to and from memory in all turns."""
        if self.body:
            return self.num_turns * sum(kernel.num_bytes for kernel in self.body)
        read = sum(number * value.element_bytes for value, number in self.reads.items())
        return read + sum(value.num_bytes for value in self.writes)


def make_kernels(program: TracedProgram, platform: Platform = "gpu") -> list[OpCost]:
    """Return the kernels of a program in the order in which they run."""
    return _Fusion(program, platform).kernels()


class _Fusion:
    """Assigns operations to kernels, one after the other."""

    def __init__(self, program: TracedProgram, platform: Platform):
        self._program = program
        self._platform: Platform = platform
        self._most_read_again = 0 if platform == "cpu" else 1
        self._kernels: list[OpCost] = []
        self._reads: dict[Value, Reads] = {value: _all_of(value) for value in program.inputs}
        self._makers: dict[Value, OpCost] = {}
        """Kernel that writes an array."""
        self._readers: dict[Value, list[OpCost]] = {}
        self._open: set[Value] = set()
        """Results whose kernel may take in what is done to them next."""

    def kernels(self) -> list[OpCost]:
        for operation in self._program.operations:
            if operation.name not in _FUSED:
                self._start(operation)
            elif operation.name in _REDUCTIONS:
                self._add_to_pass(operation, self._read_by(operation), operation.outputs)
            elif not self._extended(operation):
                self._elementwise(operation)
        for kernel in self._kernels:
            kernel.writes = [value for value in kernel.writes if self._leaves(value, kernel)]
            kernel.reads = {
                value: number
                for value, number in kernel.reads.items()
                if self._makers.get(value) is not kernel
            }
        return sorted(self._kernels, key=lambda kernel: kernel.position)

    def _leaves(self, value: Value, kernel: OpCost) -> bool:
        """Return whether anything outside of a kernel reads its result."""
        return value.is_output or any(reader is not kernel for reader in self._readers.get(value, ()))

    def _read_by(self, operation: Operation) -> Reads:
        """Return the arrays in memory that an operation's inputs are made from."""
        reads: Reads = {}
        for index, value in enumerate(operation.inputs):
            most = operation.num_read if index == 0 else None
            _add(reads, self._reads.get(value, {}), most)
        if operation.name in ("slice", "split"):
            most = max(value.num_elements for value in operation.outputs)
            return {value: min(number, most) for value, number in reads.items()}
        return reads

    def _start(self, operation: Operation) -> None:
        kernel = OpCost(
            purpose=operation.purpose,
            position=operation.position,
            is_draw=operation.name == "random_bits",
            flops=operation.flops,
            operand_bytes=min((x.element_bytes for x in operation.inputs), default=0),
            body=make_kernels(operation.body, self._platform) if operation.body else [],
            num_turns=operation.num_turns,
        )
        self._kernels.append(kernel)
        self._give(kernel, self._read_by(operation), operation.outputs)
        if len(operation.outputs) == 1 and not operation.body:
            self._open.update(operation.outputs)

    def _extended(self, operation: Operation) -> bool:
        """Make an operation part of the kernel whose result it alone reads, if there is one."""
        given = [value for value in operation.inputs if value in self._open and len(value.users) == 1]
        given = [value for value in given if not value.is_output]
        if not given or len(operation.outputs) != 1:
            return False
        value = max(given, key=lambda value: self._makers[value].position)
        kernel, result = self._makers[value], operation.outputs[0]
        others: Reads = {}
        for other in operation.inputs:
            _add(others, self._reads.get(other, {}) if other is not value else {})
        joins = operation.purpose == "backward" and _num_large(others, value) > 0
        if result.num_bytes > value.num_bytes or joins or not self._are_there(others, kernel):
            return False
        kernel.writes.remove(value)
        self._open.remove(value)
        del self._makers[value], self._reads[value]
        self._give(kernel, others, operation.outputs)
        self._open.add(result)
        return True

    def _elementwise(self, operation: Operation) -> None:
        reads = self._read_by(operation)
        kept = [value for value in operation.outputs if self._is_kept(operation, value, reads)]
        self._reads.update((value, reads) for value in operation.outputs)
        if kept:
            self._add_to_pass(operation, reads, kept)
        if operation.name in _MANY_INSTRUCTIONS:
            self._open.update(kept)

    def _is_kept(self, operation: Operation, value: Value, reads: Reads) -> bool:
        """Return whether an element-wise value is an array in memory."""
        if value.is_output or operation.name in _MANY_INSTRUCTIONS:
            return True
        if len(value.users) > 1 and _num_large(reads, value) > self._most_read_again:
            return True
        return any(user.name not in _FUSED for user in value.users)

    def _add_to_pass(self, operation: Operation, reads: Reads, results: Iterable[Value]) -> None:
        """Give results to an earlier kernel that reads or makes the same array, or to a pass of their own."""
        kernel = self._kernel_over(operation, reads)
        if kernel is None:
            kernel = OpCost(purpose=operation.purpose, position=operation.position, is_pass=True)
            self._kernels.append(kernel)
        self._give(kernel, reads, results)

    def _kernel_over(self, operation: Operation, reads: Reads) -> OpCost | None:
        if not reads:
            return None
        largest = max(reads, key=lambda value: value.num_elements)
        candidates = list(self._readers.get(largest, ()))
        if largest in self._makers:
            candidates.append(self._makers[largest])
        has_epilogue = operation.purpose == "forward" and operation.name in _ELEMENTWISE
        for kernel in sorted(candidates, key=lambda kernel: -kernel.position):
            takes_in = kernel.is_pass or (has_epilogue and kernel.flops > 0)
            if takes_in and kernel.purpose == operation.purpose and self._are_there(reads, kernel):
                return kernel
        return None

    def _are_there(self, reads: Reads, kernel: OpCost) -> bool:
        """Return whether a kernel finds all arrays when it starts, or makes them itself."""
        makers = [self._makers[value] for value in reads if value in self._makers]
        late = [maker for maker in makers if maker is not kernel and maker.position >= kernel.position]
        if not all(maker.is_draw for maker in late):
            return False
        for maker in late:
            maker.position = kernel.position - 0.5
        return True

    def _give(self, kernel: OpCost, reads: Reads, results: Iterable[Value]) -> None:
        _add(kernel.reads, reads)
        for value in reads:
            self._readers.setdefault(value, []).append(kernel)
        for value in results:
            kernel.writes.append(value)
            self._makers[value], self._reads[value] = kernel, _all_of(value)


def _all_of(value: Value) -> Reads:
    return {value: value.num_elements}


def _add(reads: Reads, more: Reads, most: int | None = None) -> None:
    for value, number in more.items():
        number = number if most is None else min(number, most)
        reads[value] = max(number, reads.get(value, 0))


def _num_large(reads: Reads, value: Value) -> int:
    """Return how many of the arrays are about as large as a value."""
    return sum(2 * other.num_elements > value.num_elements for other in reads)
