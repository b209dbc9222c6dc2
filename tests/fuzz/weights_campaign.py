"""Breaks thousands of files of weights and reads them: `python -m tests.fuzz.weights_campaign`.

Every file is read in a worker process. What must hold: each gives arrays or a UserError within 20 s and 1 GB
of memory; nothing is imported, run or written meanwhile. Anything else is reported with its seed and saved,
and the campaign fails.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pickletools
import re
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipelines.workers.isolation import Failure, Isolated
from tests.clipbert_jax.weights.formats.attacks import all_attacks, sound_files
from tests.clipbert_jax.weights.formats.weight_files import (
    example_arrays,
    state_dict,
    torch_pickle,
    torch_zip_of,
    whole_tensor,
)
from tests.fuzz.mutations import duplicate, flip_bits, move, overwrite, remove, truncate
from tests.fuzz.weights_attack import GROWTH_BYTES, Mutant, Outcome, attack

LIMIT_SECONDS = 20.0
_OPCODES = bytes(ord(opcode.code) for opcode in pickletools.opcodes)
_TELLING = [0, 1, 2, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]


# Ways to break a file, beside those for videos.


def swap_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Exchange two bytes."""
    array = bytearray(data)
    one, other = rng.integers(0, len(data), 2)
    array[one], array[other] = array[other], array[one]
    return bytes(array)


def edit_length(data: bytes, rng: np.random.Generator) -> bytes:
    """Put a telling number of 1 to 8 bytes anywhere."""
    width = int([1, 2, 4, 8][rng.integers(0, 4)])
    place = int(rng.integers(0, max(1, len(data) - width)))
    old = int.from_bytes(data[place : place + width], "little")
    values = [*_TELLING, old + 1, old - 1, old * 2]
    value = values[rng.integers(0, len(values))] % 256**width
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def edit_decimal(data: bytes, rng: np.random.Generator) -> bytes:
    """Put a telling number in place of one in digits, as JSON and names have them."""
    numbers = list(re.finditer(rb"\d+", data))
    if not numbers:
        return flip_bits(data, rng)
    found = numbers[rng.integers(0, len(numbers))]
    value = _TELLING[rng.integers(0, len(_TELLING))] * int(rng.choice([1, -1]))
    return data[: found.start()] + str(value).encode() + data[found.end() :]


def edit_opcode(data: bytes, rng: np.random.Generator) -> bytes:
    """Put one pickle instruction in place of another, or between two."""
    places = [place for place, byte in enumerate(data[:4096]) if byte in _OPCODES]
    if not places:
        return flip_bits(data, rng)
    place = places[rng.integers(0, len(places))]
    opcode = _OPCODES[rng.integers(0, len(_OPCODES))]
    return data[:place] + bytes([opcode]) + data[place + int(rng.integers(0, 2)) :]


def splice(data: bytes, rng: np.random.Generator) -> bytes:
    """Go on as another file does."""
    others = list(sound_files().values())
    other = others[rng.integers(0, len(others))]
    return data[: rng.integers(1, len(data))] + other[rng.integers(0, len(other)) :]


_MUTATIONS: list[Callable[[bytes, np.random.Generator], bytes]] = [
    *(flip_bits, truncate, overwrite, duplicate, remove, move),
    *(swap_bytes, swap_bytes, edit_length, edit_length, edit_length, edit_decimal, edit_decimal),
    *(edit_opcode, edit_opcode, edit_opcode, splice),
]


# Files to break.


@dataclasses.dataclass(frozen=True)
class Seed:
    """Bytes to break, and a function that makes a file of them."""

    data: bytes
    wrap: Callable[[bytes], bytes] = bytes


def make_seeds() -> dict[str, Seed]:
    """Return sound files of every format, and some that attack.

    Archives come in two ways: checksums would stop most of what is broken within them.
    """
    arrays = example_arrays()
    tensors = {name: whole_tensor(str(i), array) for i, (name, array) in enumerate(arrays.items())}
    storages = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
    attacks = all_attacks()
    return {
        **{kind: Seed(data) for kind, data in sound_files().items()},
        "pickle in a torch zip": Seed(
            torch_pickle(state_dict(tensors)), lambda data: torch_zip_of(data, storages)
        ),
        "zip end": Seed(
            sound_files()["torch zip"][-1200:], lambda end: sound_files()["torch zip"][:-1200] + end
        ),
        "safetensors header": Seed(*_safetensors_header()),
        "posix.system": Seed(attacks["posix.system in a pickle"][0]),
        "builtins.eval in a legacy torch file": Seed(attacks["builtins.eval in a legacy torch file"][0]),
        "STACK_GLOBAL in a pickle": Seed(attacks["STACK_GLOBAL through the memo in a pickle"][0]),
    }


def _safetensors_header() -> tuple[bytes, Callable[[bytes], bytes]]:
    data = sound_files()["safetensors"]
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end], lambda header: struct.pack("<Q", len(header)) + header + data[end:]


def mutants(kinds: list[str], numbers: range, seed: int, folder: Path) -> Iterator[Mutant]:
    """Yield broken files, as many of each kind."""
    seeds = make_seeds()
    for number in numbers:
        for place, kind in enumerate(seeds):
            if kind in kinds:
                rng = np.random.default_rng([seed, place, number])
                chosen = [_MUTATIONS[i] for i in rng.integers(0, len(_MUTATIONS), rng.choice([1, 1, 2, 3]))]
                data = seeds[kind].data
                for mutation in chosen:
                    data = mutation(data, rng) if len(data) > 8 else data
                names = "+".join(mutation.__name__ for mutation in chosen)
                yield Mutant(number, kind, names, seeds[kind].wrap(data), folder)


@dataclasses.dataclass
class Report:
    """Counts of verdicts by kind, and the files that broke a promise."""

    verdicts: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)
    failed: list[tuple[Mutant, str]] = dataclasses.field(default_factory=list)
    slowest_seconds: float = 0.0

    @property
    def num_files(self) -> int:
        """Number of files of all kinds."""
        return sum(counter.total() for counter in self.verdicts.values())

    def __str__(self) -> str:
        lines = [
            f"  {kind}: " + ", ".join(f"{count} {verdict}" for verdict, count in counter.most_common())
            for kind, counter in self.verdicts.items()
        ]
        head = f"{self.num_files} files, {len(self.failed)} failed; slowest {self.slowest_seconds:.2f} s"
        return "\n".join([head, *lines])

    def add(self, mutant: Mutant, result: Outcome | Failure) -> None:
        """Note what came of a file."""
        verdict = result.verdict if isinstance(result, Outcome) else result.reason
        self.verdicts.setdefault(mutant.kind, collections.Counter())[verdict] += 1
        if isinstance(result, Failure):
            self.failed.append((mutant, result.reason))
            return
        self.slowest_seconds = max(self.slowest_seconds, result.seconds)
        if result.problem:
            self.failed.append((mutant, f"{result.verdict}: {result.problem}"))


def run_campaign(kinds: list[str], numbers: range, *, seed: int, num_workers: int) -> Report:
    """Attack with the files of these numbers."""
    report = Report()
    with (
        tempfile.TemporaryDirectory() as folder,
        Isolated(num_workers, memory_limit_gib=GROWTH_BYTES / 2**30 + 0.5) as isolated,
    ):
        # Made twice from the same numbers, to keep no more than a few in memory.
        broken = (mutants(kinds, numbers, seed, Path(folder)) for _ in range(2))
        results = isolated.map(attack, next(broken), time_limit=LIMIT_SECONDS)
        for mutant, result in zip(next(broken), results, strict=True):
            report.add(mutant, result)
    return report


def main() -> None:
    """Run a campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=5000, help="how many files of each kind")
    parser.add_argument("--first", type=int, default=0, help="the number of the first, to run one again")
    parser.add_argument("--kind", choices=list(make_seeds()), help="only this kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--save", type=Path, default=Path("runs/fuzz_weights"), help="folder for what failed")
    options = parser.parse_args()
    kinds = [options.kind] if options.kind else list(make_seeds())
    numbers = range(options.first, options.first + options.number)
    begin = time.monotonic()
    report = run_campaign(kinds, numbers, seed=options.seed, num_workers=options.num_workers)
    print(f"{report}\nseed {options.seed}, {time.monotonic() - begin:.0f} s")
    for mutant, reason in report.failed:
        options.save.mkdir(parents=True, exist_ok=True)
        path = options.save / f"{options.seed}-{mutant.number}-{mutant.kind.replace(' ', '_')}"
        path.write_bytes(mutant.data)
        print(f"{path} ({mutant.mutations}): {reason.strip()}")
    if report.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
