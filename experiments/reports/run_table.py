"""The tables of `clipbert runs`: the runs in a directory, and their differences."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clipbert_jax.errors import UserError
from experiments.reports.page import flatten
from experiments.reports.run_summary import RunSummary, read_run

_MAX_DEPTH = 4
"""Number of levels of folders to look into."""

_STYLE_OF_STATE = {"running": "green", "stopped": "yellow", "failed": "red"}


def list_runs(directory: Path, *, as_json: bool) -> None:
    """Print a line for every run, and name the folders that are not runs.

    Raises:
      UserError: the directory does not exist.
    """
    runs, others = find_runs(directory)
    if as_json:
        _print_json({"runs": [_facts(name, run) for name, run in runs.items()], "not_runs": others})
        return
    if runs:
        _print_table(runs)
    else:
        print(f"no runs in {directory}")
    for name, reason in others.items():
        print(f"not a run: {name} ({reason})")


def compare_runs(directory: Path, names: Sequence[str], *, as_json: bool) -> None:
    """Print the settings in which runs differ, and their last numbers, side by side.

    Raises:
      UserError: a run does not exist, or only one is named.
    """
    if len(names) < 2:
        raise UserError("--compare needs at least two runs, by their names in `clipbert runs`")
    runs = {name: _read_named(directory, name) for name in names}
    tables = {"config": _differences(runs), "numbers": _numbers(runs)}
    if as_json:
        _print_json(tables)
        return
    for title, rows in tables.items():
        table = _table(title if rows else f"{title}: no differences", *(names if rows else ()))
        for field, by_run in rows.items():
            table.add_row(field, *(_text(by_run.get(name)) for name in names))
        _console().print(table)


def find_runs(directory: Path) -> tuple[dict[str, RunSummary], dict[str, str]]:
    """Return the runs by their path in the directory, the newest last, and the other folders with reasons.

    Raises:
      UserError: the directory does not exist.
    """
    if not directory.is_dir():
        raise UserError(f"the directory {directory} does not exist: give one that holds run directories")
    found: list[tuple[str, RunSummary]] = []
    others: dict[str, str] = {}
    for path in _candidates(directory, _MAX_DEPTH):
        name = str(path.relative_to(directory)) if path != directory else path.resolve().name
        try:
            found.append((name, read_run(path)))
        except (UserError, OSError) as error:
            others[name] = str(error)
    return dict(sorted(found, key=lambda pair: pair[1].last_written)), others


def _candidates(directory: Path, depth: int) -> Iterator[Path]:
    """Yield directories with a config, and those without subfolders."""
    if (directory / "config.json").exists():
        yield directory
        return
    try:
        folders = [path for path in sorted(directory.iterdir()) if path.is_dir() and path.name[0] != "."]
    except OSError:  # unreadable, which the caller will find too
        folders = []
    if not folders or depth == 0:
        yield directory
        return
    for folder in folders:
        yield from _candidates(folder, depth - 1)


def _read_named(directory: Path, name: str) -> RunSummary:
    """Return a run by its name in the list, or by a path."""
    path = directory / name
    return read_run(path if path.is_dir() or not Path(name).is_dir() else Path(name))


def _date(run: RunSummary) -> str:
    return datetime.datetime.fromtimestamp(run.last_written, datetime.UTC).isoformat(timespec="seconds")


def _facts(name: str, run: RunSummary) -> dict[str, Any]:
    best = run.best_validation
    return {
        "name": name,
        "experiment": run.experiment,
        "task": run.task,
        "step": run.step,
        "num_steps": run.num_steps,
        "state": run.state,
        "last_loss": run.last_loss,
        "best_validation": None if best is None else {"metric": best[0], "value": best[1]},
        "last_written": _date(run),
    }


def _print_table(runs: Mapping[str, RunSummary]) -> None:
    table = _table("run", "experiment", "step", "state", "last loss", "best validation", "last written")
    for name, run in runs.items():
        best = run.best_validation
        table.add_row(
            name,
            run.experiment,
            f"{run.step}/{run.num_steps}",
            run.state,
            _text(run.last_loss),
            "" if best is None else f"{best[0]} {best[1]:.4g}",
            _date(run)[:16].replace("T", " "),
            style=_STYLE_OF_STATE.get(run.state),
        )
    _console().print(table)


def _differences(runs: Mapping[str, RunSummary]) -> dict[str, dict[str, str | None]]:
    """Return field -> run -> value for the fields that differ."""
    configs = {name: flatten(run.config) for name, run in runs.items()}
    fields = dict.fromkeys(field for config in configs.values() for field in config)
    rows = {field: {name: config.get(field) for name, config in configs.items()} for field in fields}
    return {field: row for field, row in rows.items() if len(set(row.values())) > 1}


def _numbers(runs: Mapping[str, RunSummary]) -> dict[str, dict[str, Any]]:
    """Return name of a number -> run -> value: step, losses and results."""
    rows: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        last = run.records[-1] if run.records else {}
        values: dict[str, Any] = {"step": run.step, "state": run.state}
        values |= {key: last[key] for key in last if key.startswith("loss")}
        values |= {key: last[key] for key in ("videos_per_second", "mfu") if key in last}
        if best := run.best_validation:
            values[f"best validation, {best[0]}"] = best[1]
        values |= _results(run)
        for key, value in values.items():
            rows.setdefault(key, {})[name] = value
    return rows


def _results(run: RunSummary) -> dict[str, float]:
    """Return the metrics of each result file, for the largest number of clips."""
    values = {}
    for file, results in run.results.items():
        stem = file.removesuffix(".json")
        count = max(results["metrics"], key=int, default=None)
        if count is not None:
            metrics = results["metrics"][count]
            values |= {f"{stem}, {count} clips, {metric}": value for metric, value in metrics.items()}
    return values


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _console() -> Console:
    """Return a console that does not cut tables in files and pipes."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=1000)


def _print_json(values: Any) -> None:
    print(json.dumps(values, indent=2))
