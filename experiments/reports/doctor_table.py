"""The table of `clipbert doctor`: one line for each file, whatever its name."""

from __future__ import annotations

import collections
import shutil

from rich.cells import cell_len, set_cell_size

from data_pipelines.corpus.doctor import Diagnosis, printable

# fmt: off
_COLUMNS = (
    ("verdict", 10), ("seconds", 7), ("size", 9), ("fps", 9), ("turn", 4), ("codec", 6), ("frames", 6),
    ("took", 5),
)
# fmt: on
"""Titles and widths of the columns between the name and the remarks."""


def terminal_width() -> int:
    """Return the width of the terminal, between 80 and 200; 120 without a terminal."""
    return min(max(shutil.get_terminal_size((120, 0)).columns, 80), 200)


def _name_width(width: int) -> int:
    return 15 if width < 100 else width // 4


def header(width: int) -> str:
    """Return the titles of the columns."""
    titles = [_fixed(title, size) for title, size in _COLUMNS]
    return _joined([_fixed("name", _name_width(width)), *titles], "remarks", width)


def line(finding: Diagnosis, width: int) -> str:
    """Return the line of a file, never longer than the terminal."""
    health = finding.health
    rate = f"{health.fps:.4g}{' VFR' if health.is_variable_rate else ''}" if health.fps else ""
    cells = (
        health.verdict,
        f"{finding.duration:.2f}" if finding.width else "",
        f"{finding.width}x{finding.height}" if finding.width else "",
        rate,
        f"{finding.rotation or ''}{'m' if finding.is_reflected else ''}",
        health.codec,
        str(health.num_frames or ""),
        f"{finding.decode_seconds:.3g}" if finding.decode_seconds >= 100 else f"{finding.decode_seconds:.2f}",
    )
    fixed = [_fixed(cell, size) for cell, (_, size) in zip(cells, _COLUMNS, strict=True)]
    return _joined([_fixed(finding.name, _name_width(width)), *fixed], _remarks(finding), width)


def _joined(cells: list[str], remarks: str, width: int) -> str:
    """Return a line with as much of the remarks as fits."""
    text = " ".join(cells)
    room = width - cell_len(text) - 1
    return (f"{text} {_fixed(remarks, room)}" if room >= len("remarks") else text).rstrip()


def _remarks(finding: Diagnosis) -> str:
    health = finding.health
    remarks = [health.reason] if health.reason else []
    remarks += [f"damaged at {start:.2f}-{stop:.2f} s" for start, stop in health.damaged_ranges]
    if health.start_time:
        remarks.append(f"starts at {health.start_time:.3g} s")
    if finding.width and not health.has_duration:
        remarks.append("no duration in its header")
    return "; ".join([*remarks, *health.notes])


def summary(findings: list[Diagnosis]) -> str:
    """Return counts, and the full reason for each file that is not ok."""
    verdicts = collections.Counter(finding.health.verdict for finding in findings)
    bad = [finding for finding in findings if finding.health.verdict != "ok"]
    counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("ok", "damaged", "unreadable"))
    lines = [f"{len(findings)} examined: {counts}"]
    lines += [f"  {f.health.verdict}: {printable(f.name)}: {printable(_remarks(f))}" for f in bad]
    return "\n".join(lines)


def _fixed(text: str, width: int) -> str:
    """Return text padded or cut to a width in columns."""
    text = printable(text)
    return set_cell_size(text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…", width)
