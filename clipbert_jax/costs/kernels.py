"""Kernels that a compiler would make of a traced program: what each reads from memory and writes to it.

Rules are those that every compiler follows. A product (a matrix product, a convolution) is a kernel, and
element-wise operations on its result alone are part of it. Other element-wise operations and reductions that
read the same arrays are one pass. Cheap element-wise values are computed again by each kernel that needs them;
operands of products, results of products and of transcendental functions are kept in memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from clipbert_jax.costs.program import PRODUCTS, Operation, Program, Purpose, Value

_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod", "argmax"}
_EXPENSIVE = {"log", "log1p", "tanh", "erf", "erfc", "erf_inv", "logistic", "pow", "sin", "cos"}
_CHEAP = set(
    "exp exp2 expm1 abs add add_any and bitcast_convert_type broadcast_in_dim ceil clamp concatenate convert_element_type "
    "div eq floor ge gt integer_pow iota is_finite le lt max min mul ne neg not or pad rem round rsqrt "
    "select_n shift_left shift_right_arithmetic shift_right_logical sign slice split sqrt square sub xor "
    "reshape transpose squeeze copy stop_gradient sharding_constraint reshard rev random_fold_in "
    "random_seed random_wrap random_unwrap".split()
)

Reads = dict[Value, int]
"""Arrays in memory, and how many elements of each are read."""


@dataclasses.dataclass(eq=False)
class Kernel:
    """What runs as one."""

    purpose: Purpose
    position: float
    is_pass: bool
    is_drawn: bool = False
    flops: int = 0
    reads: Reads = dataclasses.field(default_factory=dict)
    writes: list[Value] = dataclasses.field(default_factory=list)
    body: Kernels | None = None
    num_turns: int = 1


@dataclasses.dataclass
class Kernels:
    """Kernels of a program in the order in which they run."""

    program: Program
    kernels: list[Kernel]


def make_kernels(program: Program, *, duplicates: bool = True, has_epilogues: bool = True) -> Kernels:
    """Return the kernels of a program."""
    return Kernels(program, _Maker(program, duplicates=duplicates, has_epilogues=has_epilogues).make())


class _Maker:
    def __init__(self, program: Program, *, duplicates: bool, has_epilogues: bool):
        self.program = program
        self.duplicates, self.has_epilogues = duplicates, has_epilogues
        self.most_read_again = 1 if duplicates else 0
        self.reads: dict[Value, Reads] = {value: {value: value.num_elements} for value in program.inputs}
        self.maker: dict[Value, Kernel] = {}  # of arrays in memory
        self.readers: dict[Value, list[Kernel]] = {}
        self.kernels: list[Kernel] = []
        self.open: dict[Value, Kernel] = {}  # results that further operations may still join

    def make(self) -> list[Kernel]:
        for operation in self.program.operations:
            if operation.name in _CHEAP or operation.name in _EXPENSIVE:
                if not self._join(operation):
                    self._elementwise(operation)
            else:
                self._root(operation)
        return self._finished()

    def _finished(self) -> list[Kernel]:
        for kernel in self.kernels:
            kernel.writes = [
                value
                for value in kernel.writes
                if value.is_output or any(reader is not kernel for reader in self.readers.get(value, ()))
            ]
            for value in [value for value in kernel.reads if self.maker.get(value) is kernel]:
                del kernel.reads[value]
        return sorted(self.kernels, key=lambda kernel: kernel.position)

    def _of(self, value: Value) -> Reads:
        return self.reads.get(value, {})

    def _elementwise(self, operation: Operation) -> None:
        reads: Reads = {}
        for value in operation.inputs:
            _add(reads, self._of(value))
        if operation.name in ("slice", "split"):
            most = max(value.num_elements for value in operation.outputs)
            reads = {value: min(number, most) for value, number in reads.items()}
        outputs = [value for value in operation.outputs if self._is_kept(operation, value)]
        for value in operation.outputs:
            self.reads[value] = {value: value.num_elements} if value in outputs else reads
        if outputs:
            self._pass(operation, reads, outputs)
            if operation.name in _EXPENSIVE:
                self.open[outputs[0]] = self.maker[outputs[0]]

    def _is_kept(self, operation: Operation, value: Value) -> bool:
        if value.is_output or operation.name in _EXPENSIVE:
            return True
        if len(value.users) > 1 and self._num_large(operation, value) > self.most_read_again:
            return True
        return any(user.name in PRODUCTS or not _is_fused(user) for user in value.users)

    def _num_large(self, operation: Operation, value: Value) -> int:
        """Return how many arrays as large as the value it is made from."""
        leaves = {leaf for read in operation.inputs for leaf in self._of(read)}
        return sum(2 * leaf.num_elements > value.num_elements for leaf in leaves)

    def _root(self, operation: Operation) -> None:
        reads: Reads = {}
        for index, value in enumerate(operation.inputs):
            of_value = self._of(value)
            if index == 0 and operation.num_read is not None:
                of_value = {leaf: min(number, operation.num_read) for leaf, number in of_value.items()}
            _add(reads, of_value)
        for value in operation.outputs:
            self.reads[value] = {value: value.num_elements}
        if operation.name in _REDUCTIONS:
            self._pass(operation, reads, list(operation.outputs))
            return
        kernel = Kernel(
            purpose=operation.purpose,
            position=operation.position,
            is_pass=False,
            is_drawn=operation.name=='random_bits',
            flops=operation.flops,
            body=make_kernels(operation.body, duplicates=self.duplicates, has_epilogues=self.has_epilogues) if operation.body else None,
            num_turns=operation.num_turns,
        )
        self.kernels.append(kernel)
        self._extend(kernel, reads, list(operation.outputs))
        if operation.body is None and len(operation.outputs) == 1 and (self.has_epilogues or operation.name not in PRODUCTS):
            self.open[operation.outputs[0]] = kernel

    def _join(self, operation: Operation) -> bool:
        """Make an operation part of the kernel that gives its input, if nothing else asks for that."""
        candidates = [
            value
            for value in operation.inputs
            if value in self.open and len(value.users) == 1 and not value.is_output
        ]
        if not candidates or len(operation.outputs) != 1:
            return False
        value = max(candidates, key=lambda value: self.open[value].position)
        kernel, (result,) = self.open[value], operation.outputs
        if result.num_bytes > value.num_bytes:
            return False
        others: Reads = {}
        for other in operation.inputs:
            if other is not value:
                _add(others, self._of(other))
        if not self._are_earlier(others, kernel):
            return False
        if kernel.purpose == "backward" and any(2 * leaf.num_elements > value.num_elements for leaf in others):
            return False
        kernel.writes.remove(value)
        del self.open[value], self.maker[value], self.reads[value]
        self.reads[result] = {result: result.num_elements}
        self._extend(kernel, others, [result])
        self.open[result] = kernel
        return True

    def _pass(self, operation: Operation, reads: Reads, outputs: list[Value]) -> None:
        kernel = self._pass_that_reads(operation, reads)
        if kernel is None:
            kernel = Kernel(purpose=operation.purpose, position=operation.position, is_pass=True)
            self.kernels.append(kernel)
        self._extend(kernel, reads, outputs)

    def _pass_that_reads(self, operation: Operation, reads: Reads) -> Kernel | None:
        """Return an earlier pass over the same array, which has all that the operation needs."""
        if not reads:
            return None
        largest = max(reads, key=lambda leaf: leaf.num_elements)
        candidates = [*self.readers.get(largest, ()), *([self.maker[largest]] if largest in self.maker else ())]
        for kernel in sorted(candidates, key=lambda kernel: -kernel.position):
            is_epilogue = kernel.flops and operation.purpose == 'forward' and operation.name not in _REDUCTIONS and self.has_epilogues
            if not (kernel.is_pass or is_epilogue) or kernel.purpose != operation.purpose:
                continue
            if self._are_earlier(reads, kernel):
                return kernel
        return None

    def _are_earlier(self, reads: Reads, kernel: Kernel) -> bool:
        """Return whether all arrays are there before a kernel, or are made by it."""
        makers = [self.maker[leaf] for leaf in reads if leaf in self.maker and self.maker[leaf] is not kernel]
        late = [maker for maker in makers if maker.position >= kernel.position]
        if any(not maker.is_drawn for maker in late):
            return False
        for maker in late:  # random numbers wait for nothing
            maker.position = kernel.position - 0.5
        return True

    def _extend(self, kernel: Kernel, reads: Reads, outputs: list[Value]) -> None:
        _add(kernel.reads, reads)
        for leaf in reads:
            self.readers.setdefault(leaf, []).append(kernel)
        kernel.writes += outputs
        for value in outputs:
            self.maker[value] = kernel


def _is_fused(operation: Operation) -> bool:
    return operation.name in _CHEAP or operation.name in _EXPENSIVE or operation.name in _REDUCTIONS


def _add(reads: Reads, more: Reads) -> None:
    for value, number in more.items():
        reads[value] = max(number, reads.get(value, 0))


# ---- Memory


@dataclasses.dataclass
class Peak:
    bytes: int
    at: Kernel | None
    backward_begins: int


def peak_memory(kernels: Kernels) -> Peak:
    last: dict[Value, int] = {}
    for index, kernel in enumerate(kernels.kernels):
        for value in kernel.reads:
            last[value] = index
    free: dict[int, list[Value]] = {}
    inputs = set(kernels.program.inputs)
    for value, index in last.items():
        if value not in inputs and not value.is_output:
            free.setdefault(index, []).append(value)
    live = 0
    peak = Peak(0, None, 0)
    for index, kernel in enumerate(kernels.kernels):
        if kernel.purpose == "backward" and not peak.backward_begins:
            peak.backward_begins = live
        written = sum(value.num_bytes for value in kernel.writes if not value.is_output)
        freed = sum(value.num_bytes for value in free.get(index, ()))
        if kernel.is_pass:
            during = max(live, live + written - freed)
        else:
            during = live + written
            if kernel.body:
                during += peak_memory(kernel.body).bytes - freed
        if during > peak.bytes:
            peak.bytes, peak.at = during, kernel
        live += written - freed
        never_read = sum(value.num_bytes for value in kernel.writes if value not in last and not value.is_output)
        live -= never_read
    return peak


def moved_bytes(kernel: Kernel) -> int:
    if kernel.body:
        return kernel.num_turns * sum(map(moved_bytes, kernel.body.kernels))
    return sum(number * value.element_bytes for value, number in kernel.reads.items()) + sum(v.num_bytes for v in kernel.writes)


def all_kernels(kernels: Kernels, times: int = 1) -> Iterator[tuple[Kernel, int]]:
    for kernel in kernels.kernels:
        if kernel.body:
            yield from all_kernels(kernel.body, times * kernel.num_turns)
        else:
            yield kernel, times


def floor(kernels: Kernels, peak: float, bandwidth: float) -> float:
    return sum(t * max(k.flops / peak, moved_bytes(k) / bandwidth) for k, t in all_kernels(kernels))
