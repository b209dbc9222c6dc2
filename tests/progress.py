"""A plugin of pytest that says every two minutes how far the run is, and about how long it will take.

The dots say little about that, since some files take minutes and most take none.
"""

from __future__ import annotations

import collections
import time
from typing import Any

import pytest

LONG_FILES = {
    "test_processes.py": 90,
    "test_notebooks.py": 70,
    "test_resume.py": 45,
    "test_estimate.py": 45,
    "test_evaluate_run.py": 45,
    "test_workers.py": 40,
    "test_step_costs.py": 30,
    "test_cli.py": 30,
    "test_made_before.py": 15,
    "test_attacks.py": 15,
}
"""File -> seconds that it takes, roughly. These begin first, so that no process ends alone with one."""

OTHER_SECONDS = 0.3
"""Seconds that a test of another file takes on average."""

EVERY_SECONDS = 120.0


class Progress:
    """Counts the tests that are done, in the process that prints."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._start = self._said = time.monotonic()
        self._left: dict[str, float] = {}
        self._num_tests = self._sum = 0.0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the tests, if there is one process."""
        self._note([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """Note the tests, which every process of pytest-xdist collects."""
        self._note(ids)

    def _note(self, ids: list[str]) -> None:
        if ids and not self._num_tests:
            self._left = seconds_of(ids)
            self._num_tests, self._sum = len(ids), sum(self._left.values())

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Take a test as done; print a line if it is time for one."""
        self._left.pop(nodeid, None)
        now = time.monotonic()
        if now - self._said >= EVERY_SECONDS and self._left:
            self._said = now
            self._print(now - self._start)

    def _print(self, elapsed: float) -> None:
        left = sum(self._left.values())
        remaining = elapsed * left / max(self._sum - left, OTHER_SECONDS)
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(
                f"\nafter {elapsed / 60:.0f} minutes {self._num_tests - len(self._left):,.0f} of "
                f"{self._num_tests:,.0f} tests are done: about {remaining / 60:.0f} more minutes"
            )


def seconds_of(ids: list[str]) -> dict[str, float]:
    """Return about how long each test takes; those of a long file share its time."""
    names = {test: test.split("::")[0].rpartition("/")[2] for test in ids}
    counts = collections.Counter(names.values())
    return {
        test: LONG_FILES[name] / counts[name] if name in LONG_FILES else OTHER_SECONDS
        for test, name in names.items()
    }
