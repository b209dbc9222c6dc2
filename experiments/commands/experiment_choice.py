"""The choice of an experiment on the command line, each with its options, for `train` and `estimate`."""

from __future__ import annotations

import inspect
import sys

import tyro

from experiments.configs import EXPERIMENTS


def docstring(experiment: str) -> str:
    """Return what an experiment's file says: command, data, hardware, what to expect.

    The file of two presets shows the command of `corrected`, and has the sections of one preset in the
    docstring of its function.
    """
    make = EXPERIMENTS[experiment]
    of_file = inspect.getdoc(sys.modules[make.__module__]) or ""
    of_preset = (inspect.getdoc(make) or "").partition("\n")[2]
    if not of_preset:
        return of_file
    return of_file.replace("_corrected", f"_{make.__name__}") + "\n" + of_preset


def _summary(experiment: str) -> str:
    preset = EXPERIMENTS[experiment].__name__
    line = docstring(experiment).partition("\n")[0]
    return line if preset == "experiment" else f"{line} Preset `{preset}`."


ExperimentChoice = tyro.extras.subcommand_type_from_defaults(
    {name: make() for name, make in EXPERIMENTS.items()},
    {name: _summary(name) for name in EXPERIMENTS},
)
