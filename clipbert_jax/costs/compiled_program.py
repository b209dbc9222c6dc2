"""Counts of a compiled program, read from the text of its HLO. `compiler.py` calls it.

Compilers report little about a program that they cannot run. Each instruction of the entry computation, and
of loops, is one kernel that reads its operands from memory and writes its result.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_NOT_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "iota"}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (\([^=]*?\)|\S+) ([\w-]+)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_FUSED_CONVOLUTION = "__cudnn$convBiasActivationForward"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """Instruction that runs as a kernel."""

    name: str
    shape: str
    op: str
    rest: str
    """Operands and attributes, as written."""
    times: int
    """Number of times that it runs."""

    @property
    def target(self) -> str:
        """Name of the function that a custom call calls; empty for other instructions."""
        match = re.search(r'custom_call_target="([^"]+)"', self.rest)
        return match[1] if match else ""

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%([\w.-]+)", self.rest.partition(")")[0])

    @property
    def cycles(self) -> int:
        """Cycles that the TPU's compiler expects; 0 where it does not say."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(match[1]) if match else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts of one run of the program on one device."""

    num_kernels: int
    moved_bytes: int
    """Operands read and results written by all kernels."""
    estimated_cycles: int
    """Cycles that a TPU's compiler expects."""
    collectives: dict[str, int]
    num_convolutions: int
    """Calls of cuDNN, or convolutions of a TPU, matrix products included."""
    num_fused_bias: int
    """Calls of cuDNN and cuBLAS that add a bias."""
    num_fused_relu: int
    """Calls among these that also apply the ReLU."""
    num_fused_attention: int
    copies: int
    """Copies and transposes that are kernels of their own."""
    copied_bytes: int
    """Bytes that copies move."""


def summarise(text: str) -> Summary:
    """Return the counts of a compiled program."""
    instructions = list(read_program(text))
    shapes = {i.name: i.shape for i in instructions}
    counts: collections.Counter[str] = collections.Counter()
    for i in instructions:
        if i.op in _NOT_KERNELS or i.op.endswith("-done"):
            continue
        moved = i.times * (_num_bytes(i.shape) + sum(_num_bytes(shapes.get(name, "")) for name in i.operands))
        op = i.op.removesuffix("-start")
        counts["kernels"] += i.times
        counts["bytes"] += moved
        counts["cycles"] += i.times * i.cycles
        counts[op] += i.times
        if op in ("copy", "transpose") or re.match(r"(input_)?(copy|transpose)[\w.]*fusion", i.name):
            counts["copies"] += i.times
            counts["copied_bytes"] += moved
        if i.target.startswith("__cudnn$conv"):
            counts["convolutions"] += i.times
            counts["bias"] += i.times * (i.target == _FUSED_CONVOLUTION)
            counts["relu"] += i.times * ('"activation_mode":"kRelu"' in i.rest)
        if i.target == "__cublas$lt$matmul":
            counts["bias"] += i.times * ('"epilogue":"BIAS' in i.rest)
            counts["relu"] += i.times * ('"epilogue":"BIAS_RELU"' in i.rest)
        counts["attention"] += i.times * i.target.startswith("__cudnn$fmha")
    return Summary(
        num_kernels=counts["kernels"],
        moved_bytes=counts["bytes"],
        estimated_cycles=counts["cycles"],
        collectives={name: counts[name] for name in COLLECTIVES if counts[name]},
        num_convolutions=counts["convolutions"] + text.count(" convolution("),
        num_fused_bias=counts["bias"],
        num_fused_relu=counts["relu"],
        num_fused_attention=counts["attention"],
        copies=counts["copies"],
        copied_bytes=counts["copied_bytes"],
    )


def read_program(text: str) -> Iterator[Instruction]:
    """Yield the instructions that run as such: of the entry computation and the bodies of its loops."""
    computations, entry = _computations(text)

    def walk(name: str, times: int) -> Iterator[Instruction]:
        for line in computations[name]:
            match = _INSTRUCTION.match(line)
            if not match:
                continue
            instruction = Instruction(match[1], match[2], match[3], match[4], times)
            yield instruction
            if instruction.op in ("while", "call"):
                body = re.search(r"(?:body|to_apply)=%?([\w.-]+)", line)
                turns = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
                if body and body[1] in computations:
                    yield from walk(body[1], times * (int(turns[1]) if turns else 1))

    yield from walk(entry, 1)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _num_bytes(shape: str) -> int:
    total = 0
    for kind, sides in _SHAPE.findall(shape):
        size = _BYTES.get(kind) or (int(kind[1:]) // 8 if re.fullmatch(r"[su]\d+", kind) else 0)
        for side in filter(None, sides.split(",")):
            size *= int(side)
        total += size
    return total
