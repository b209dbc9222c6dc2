"""`clipbert report`: writes a page about a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Write an HTML page about a run: curves, results, samples, config and environment.

    The run may still be going on. The page is a single file that works offline.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`."""
    out: Path | None = None
    """File to write; default: RUN/run-report.html."""

    def run(self) -> None:
        """Write the page, and print its path."""
        from experiments.input_checks import check_out_directory
        from experiments.reports.run_report import write_run_report
        from experiments.reports.run_summary import read_run

        out = self.out or self.run_dir / "run-report.html"
        if out.is_dir():
            raise UserError(f"--out {out} is a directory: give a file name")
        run = read_run(self.run_dir)
        check_out_directory("the folder of the page,", out.parent)
        write_run_report(run, out)
        print(out)
