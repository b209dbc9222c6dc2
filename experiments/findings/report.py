"""The results of `make findings` as JSON, and as Markdown with plots; `findings.run` calls it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from matplotlib.figure import Figure

from clipbert_jax.atomic_files import write_whole
from experiments.findings.conditions import FINDINGS, Finding, FindingsScale

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Name of a run -> seed -> its results.json."""

Summary = Mapping[str, Mapping[str, "Cell"]]
"""Name of a run -> number of test clips -> accuracy over the seeds."""

METRIC = "accuracy"
_COLOURS = ("#1f6fb2", "#d1662c", "#3d8f4f", "#8a4fa3")


class Cell(TypedDict):
    """Mean and spread of a metric over the seeds."""

    mean: float
    spread: float
    """Standard deviation over the seeds; 0 with one seed."""
    values: list[float]


def summarise(results: Results) -> dict[str, dict[str, Cell]]:
    """Return run -> number of test clips -> accuracy over the seeds, in percent."""
    summary: dict[str, dict[str, Cell]] = {}
    for run, by_seed in results.items():
        counts = next(iter(by_seed.values()))["metrics"]
        summary[run] = {
            count: _cell([of_seed["metrics"][count][METRIC] for of_seed in by_seed.values()])
            for count in counts
        }
    return summary


def _cell(values: Sequence[float]) -> Cell:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Cell(mean=float(np.mean(values)), spread=spread, values=[float(value) for value in values])


def verdicts(finding: Finding, summary: Summary) -> list[str]:
    """Return a line for each comparison of a finding: whether the runs agree with the claim."""
    return [
        f"{_name(finding, better)} against {_name(finding, worse)}: "
        f"{_verdict(summary[better[0]][str(better[1])], summary[worse[0]][str(worse[1])])}"
        for better, worse in ((c.better, c.worse) for c in finding.comparisons)
    ]


def _name(finding: Finding, run: tuple[str, int]) -> str:
    return f"“{finding.runs[run[0]]}” ({run[1]} test clip{'s' * (run[1] > 1)})"


def _verdict(better: Cell, worse: Cell) -> str:
    """Judge a difference.

    A difference below twice its standard error over the seeds is undecided. One seed has no spread, so only
    the sign counts.
    """
    difference, count = better["mean"] - worse["mean"], len(better["values"])
    points = f"{difference:+.1f} points"
    if count == 1:
        return f"{'in favour' if difference > 0 else 'against'} ({points}, one seed)"
    error = math.sqrt((better["spread"] ** 2 + worse["spread"] ** 2) / count)
    points += f", standard error {error:.1f}"
    if abs(difference) < 2 * error:
        return f"undecided ({points})"
    return f"{'agrees' if difference > 0 else 'contradicts'} ({points})"


def write_reports(results: Results, scale: FindingsScale, out: Path) -> list[Path]:
    """Write all files into `out` and return their paths."""
    summary = summarise(results)
    judged = {finding.letter: verdicts(finding, summary) for finding in FINDINGS}
    factors = next(iter(results["clipbert"].values()))["run"]
    facts = {
        "scale": dataclasses.asdict(scale),
        "split": factors["split"],
        "num_videos": factors["num_videos"],
        "versions": factors["versions"],
        "device": factors["device"],
        "baseline": next(iter(results["clipbert"].values()))["baseline"][METRIC],
    }
    paths = {name: out / f"findings.{name}" for name in ("json", "md")}
    document = {"verdicts": judged, "runs": summary, **facts}
    write_whole(paths["json"], json.dumps(document, indent=2) + "\n")
    write_whole(paths["md"], "\n".join(markdown(summary, judged, facts)) + "\n")
    plots = [draw(finding, summary, out) for finding in FINDINGS]
    return [*paths.values(), *plots]


def markdown(summary: Summary, judged: Mapping[str, list[str]], facts: Mapping[str, Any]) -> list[str]:
    """Return the lines of a section for each finding: verdicts, accuracy by number of test clips, plot."""
    scale = facts["scale"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        "# The paper's claims on generated videos",
        "",
        f"Accuracy in percent of open-ended answers to a question about each of {facts['num_videos']} "
        f"{facts['split']} videos, mean and standard deviation over {scale['num_seeds']} seed(s). The most "
        f"frequent answer is right for {facts['baseline']:.1f} %. {scale['num_steps']} steps of "
        f"{scale['batch_size']} videos, after {scale['pretraining_steps']} steps of pretraining on images. "
        f"{facts['device']}; {versions}.",
        "",
    ]
    for finding in FINDINGS:
        counts = list(summary[next(iter(finding.runs))])
        lines += [f"## ({finding.letter}) {finding.title}", "", finding.claim, ""]
        lines += [*(f"- {line}" for line in judged[finding.letter]), ""] * bool(judged[finding.letter])
        lines += ["| test clips | " + " | ".join(counts) + " |", "|---" * (len(counts) + 1) + "|"]
        for run, label in finding.runs.items():
            cells = [_text(summary[run][count]) for count in counts]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        lines += ["", f"![accuracy over clips per test video]({_plot_name(finding)})", ""]
    return lines


def _text(cell: Cell) -> str:
    return f"{cell['mean']:.1f} ± {cell['spread']:.1f}" if len(cell["values"]) > 1 else f"{cell['mean']:.1f}"


def _plot_name(finding: Finding) -> str:
    return f"finding-{finding.letter}.png"


def draw(finding: Finding, summary: Summary, out: Path) -> Path:
    """Draw accuracy over the number of test clips, a line for each run, with its spread; return the path."""
    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained", facecolor="white")
    axes: Any = figure.add_subplot()
    for (run, label), colour in zip(finding.runs.items(), _COLOURS, strict=False):
        counts = [int(count) for count in summary[run]]
        cells = list(summary[run].values())
        means, spreads = (np.array([cell[key] for cell in cells]) for key in ("mean", "spread"))
        axes.plot(counts, means, "o-", color=colour, label=label, linewidth=2)
        axes.fill_between(counts, means - spreads, means + spreads, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(0, 100)
    axes.set_xlabel("clips per test video")
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"({finding.letter}) {finding.title}", loc="left", fontsize=11, fontweight="bold")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    path = out / _plot_name(finding)
    figure.savefig(path)
    return path
