"""`clipbert runs`: lists and compares runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """List the runs in a directory, or compare some of them."""

    directory: Annotated[Positional[Path], arg(metavar="DIRECTORY")] = Path("runs")
    """Directory to search, with its subfolders."""
    compare: tuple[str, ...] = ()
    """Names of runs in the list: show their differing settings and their results side by side."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Print the table."""
        from experiments.reports.run_table import compare_runs, list_runs

        if self.compare:
            compare_runs(self.directory, self.compare, as_json=self.json)
        else:
            list_runs(self.directory, as_json=self.json)
