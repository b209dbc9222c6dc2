"""`clipbert runs`: its options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """List the runs in a directory, or say in what some of them differ."""

    directory: Annotated[Positional[Path], arg(metavar="DIRECTORY")] = Path("runs")
    """Where to look, folders of folders included."""
    compare: tuple[str, ...] = ()
    """Runs, by the names of the list: settings in which they differ, and what came of it, side by side."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Print the table."""
        from experiments.reports.run_table import compare_runs, list_runs

        if self.compare:
            compare_runs(self.directory, self.compare, as_json=self.json)
        else:
            list_runs(self.directory, as_json=self.json)
