"""Breaks thousands of small files and decodes them as ingest would: `make fuzz`.

Every file is examined in a worker process. What must hold: this process lives on, each file is done within
20 s, only the exceptions that are announced appear, and a file said to be sound gives the frames of its
index, the same alone as among all (but for one file in a thousand, whose decoder hides damage). A crash of a
worker is contained and counted; the files that did it are saved, as are those that failed.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.workers.isolation import Failure, Isolated
from tests.fuzz.attack import HIDDEN_DAMAGE, Mutant, Outcome, attack
from tests.fuzz.mutations import mutate
from tests.fuzz.seeds import make_seeds

LIMIT_SECONDS = 20.0


def mutants(numbers: range, seed: int) -> Iterator[Mutant]:
    """Yield broken files."""
    files = make_seeds()
    names = list(files)
    for number in numbers:
        name = names[number % len(names)]
        data, mutations = mutate(files[name], np.random.default_rng([seed, number]))
        yield Mutant(number, name, mutations, data)


@dataclasses.dataclass
class Report:
    """Counts, and the files that crashed a worker or broke a promise."""

    verdicts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    contained: list[tuple[Mutant, str]] = dataclasses.field(default_factory=list)
    """Crashes and memory limits, which isolation is there for."""
    failed: list[tuple[Mutant, str]] = dataclasses.field(default_factory=list)
    """Hangs, unexpected exceptions, broken promises."""
    slowest_seconds: float = 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts.most_common())
        return f"{self.verdicts.total()} files: {counts}; slowest {self.slowest_seconds:.2f} s"

    def add(self, mutant: Mutant, result: Outcome | Failure) -> None:
        """Note what came of a file."""
        if isinstance(result, Outcome):
            self.verdicts[result.verdict] += 1
            self.slowest_seconds = max(self.slowest_seconds, result.seconds)
            if result.problem:
                self.failed.append((mutant, result.problem))
            return
        self.verdicts[result.reason] += 1
        (self.failed if "took longer" in result.reason else self.contained).append((mutant, result.reason))


def run_campaign(numbers: range, *, seed: int, num_workers: int, seconds_between: float = 10.0) -> Report:
    """Attack with the files of these numbers."""
    report, begin = Report(), time.monotonic()
    next_line = begin + seconds_between
    # Made twice from the same numbers, to keep no more than a few in memory.
    with Isolated(num_workers) as isolated:
        results = isolated.map(attack, mutants(numbers, seed), time_limit=LIMIT_SECONDS)
        for mutant, result in zip(mutants(numbers, seed), results, strict=True):
            report.add(mutant, result)
            if time.monotonic() > next_line:
                print(f"{time.monotonic() - begin:.0f} s: {report}", flush=True)
                next_line = time.monotonic() + seconds_between
    return report


def main() -> None:
    """Run a campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10_000, help="how many files")
    parser.add_argument("--first", type=int, default=0, help="the number of the first, to run one again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument(
        "--save", type=Path, default=Path("runs/fuzz"), help="folder for files that stand out"
    )
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.number)
    begin = time.monotonic()
    report = run_campaign(numbers, seed=options.seed, num_workers=options.num_workers)
    print(f"{report}; seed {options.seed}, {time.monotonic() - begin:.0f} s")
    for mutant, reason in report.contained + report.failed:
        options.save.mkdir(parents=True, exist_ok=True)
        path = options.save / f"{options.seed}-{mutant.number}-{mutant.name}"
        path.write_bytes(mutant.data)
        print(f"{path} ({mutant.mutations}): {reason.strip()}")
    if report.failed or report.verdicts[HIDDEN_DAMAGE] > options.number // 1000:
        sys.exit(1)


if __name__ == "__main__":
    main()
