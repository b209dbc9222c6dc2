"""The progress bar on the last line of a terminal during a training.

The reporter shows it; printed lines appear above it. Files, pipes and notebooks get only the printed lines,
without control codes.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_REFRESHES_PER_SECOND = 4.0
"""Refreshes per second; each takes a millisecond of the thread that dispatches steps."""

_MIN_WIDTH_FOR_BAR = 110
"""Least width in characters for the bar; narrower terminals need the space for the numbers."""


def is_terminal() -> bool:
    """Return whether the output is a terminal that can rewrite a line."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


class ProgressBar:
    """Shows the progress of a training and the last log line."""

    def __init__(self, *, first_step: int, num_steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
        from rich.table import Column

        console = Console()
        widest = Column(no_wrap=True, min_width=len(f"step {num_steps}/{num_steps}"))
        bar: list[Any] = [BarColumn(bar_width=20), TaskProgressColumn()]
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}", table_column=widest),
            *(bar if console.width >= _MIN_WIDTH_FOR_BAR else ()),
            TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            refresh_per_second=_REFRESHES_PER_SECOND,
            redirect_stderr=sys.stderr.isatty(),  # a file of errors stays one
        )
        self._task = self._progress.add_task("", total=num_steps, completed=first_step, status="compiling")
        self._progress.start()

    def advance(self, step: int) -> None:
        """Show the step; this costs little, and does not wait for the devices."""
        self._progress.update(self._task, completed=step)

    def show(self, status: str) -> None:
        """Show a line of text beside the bar."""
        self._progress.update(self._task, status=status)

    def close(self) -> None:
        """Remove the bar and restore the terminal."""
        self._progress.stop()
