"""Configs to JSON values and back, strictly; runs, models and exports store them.

A task is stored with its name, which selects its dataclass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from cattrs import transform_error
from cattrs.errors import BaseValidationError

from clipbert_jax.errors import UserError
from clipbert_jax.tasks.find_task import task_class
from clipbert_jax.tasks.task import Task

Config = TypeVar("Config")

_converter = cattrs.Converter(forbid_extra_keys=True)


def _exactly(*kinds: type) -> Callable[[Any, Any], Any]:
    """Return a hook that accepts JSON values of these kinds only: bool("false") would be True."""

    def take(value: Any, kind: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError(f"{value!r} is not a value of type {kinds[0].__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise TypeError(f"{value!r} is not a finite number")  # not JSON, but Python reads it
        return value

    return take


for _kind, _taken in {bool: (bool,), int: (int,), str: (str,), float: (float, int)}.items():
    _converter.register_structure_hook(_kind, _exactly(*_taken))


def _structure_task(values: Any, _: Any) -> Task:
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise TypeError("a task is an object with a name")
    settings = {key: value for key, value in values.items() if key != "name"}
    return _converter.structure(settings, task_class(values["name"]))


def _unstructure_task(task: Task) -> dict[str, Any]:
    return {**_converter.unstructure(task, unstructure_as=type(task)), "name": task.name}


_converter.register_structure_hook_func(lambda kind: kind is Task, _structure_task)
_converter.register_unstructure_hook_func(lambda kind: kind is Task, _unstructure_task)


def config_to_json(config: Any) -> Any:
    """Return a config as JSON values, as they are after a round trip through a file."""
    return _as_lists(_converter.unstructure(config))


def config_from_json(values: Any, kind: type[Config], source: Path) -> Config:
    """Return the config that `config_to_json` wrote.

    Args:
      values: JSON values.
      kind: class of the config.
      source: named in errors.

    Raises:
      UserError: an unknown, missing or ill-typed field.
    """
    try:
        return _converter.structure(values, kind)
    except BaseValidationError as error:
        problems = "; ".join(transform_error(error, path="config"))
    except (TypeError, KeyError, ValueError) as error:
        problems = f"{type(error).__name__}: {error}"
    raise UserError(
        f"{source} is not a config of this version ({problems}): use the version of clipbert_jax that wrote "
        "it, or train again."
    )


def _as_lists(value: Any) -> Any:
    """Turn tuples into lists."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value
