"""No two classes of the product share a name, with or without a leading underscore."""

from __future__ import annotations

import ast
import collections
import pathlib

ROOT = pathlib.Path(__file__).parents[1]


def test_each_class_has_a_name_of_its_own() -> None:
    files_of = collections.defaultdict[str, list[str]](list)
    for package in ("clipbert_jax", "data_pipelines", "experiments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    files_of[node.name.lstrip("_")].append(str(path.relative_to(ROOT)))
    assert files_of
    assert {name: files for name, files in files_of.items() if len(files) > 1} == {}
