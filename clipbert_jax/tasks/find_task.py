"""Finds the class of a task by the name that configs and results have."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import clipbert_jax.tasks
from clipbert_jax.tasks.task import Task


def task_class(name: str) -> type[Task]:
    """Return the task of a name: one of this folder, or one that an imported experiment brings.

    Raises:
      ValueError: no task has that name, or several have it.
    """
    for module in pkgutil.iter_modules(clipbert_jax.tasks.__path__):
        importlib.import_module(f"{clipbert_jax.tasks.__name__}.{module.name}")
    named = [task for task in _subclasses(Task) if "name" in vars(task)]  # not those that inherit a name
    found = [task for task in named if task.name == name]
    if len(found) != 1:
        known = ", ".join(sorted({task.name for task in named}))
        raise ValueError(f"{len(found)} tasks have the name {name!r}; known tasks are {known}")
    return found[0]


def _subclasses(kind: type[Task]) -> Iterator[type[Task]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
