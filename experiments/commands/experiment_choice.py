"""The choice of an experiment on the command line, each with its options, for the commands that take one."""

from __future__ import annotations

import inspect
import sys

import tyro

from experiments.configs import EXPERIMENTS


def docstring(experiment: str) -> str:
    """Return what the file of an experiment says: command, data, hardware, what to expect."""
    return inspect.getdoc(sys.modules[EXPERIMENTS[experiment].__module__]) or ""


ExperimentChoice = tyro.extras.subcommand_type_from_defaults(
    {name: make() for name, make in EXPERIMENTS.items()},
    {name: docstring(name).partition("\n")[0] for name in EXPERIMENTS},
)
