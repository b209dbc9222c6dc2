"""What a task decides stands in its file: other code asks the task and hardly ever looks at its class.

Counted, outside `clipbert_jax/tasks/` and `experiments/evaluators/`: each `isinstance` with a class of
`clipbert_jax/tasks/`, each `case` of a `match` with one, each key of a dictionary that is one, and each
comparison of a task's name.
"""

from __future__ import annotations

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
AT_MOST = 15
TASKS = ROOT / "clipbert_jax" / "tasks"
EXEMPT = (TASKS, ROOT / "experiments" / "evaluators")


def names_in(node: ast.AST) -> set[str]:
    return {
        found.id if isinstance(found, ast.Name) else found.attr
        for found in ast.walk(node)
        if isinstance(found, ast.Name | ast.Attribute)
    }


def num_branches(node: ast.AST, tasks: set[str]) -> int:
    match node:
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, classes]):
            return bool(names_in(classes) & tasks)
        case ast.match_case(pattern=pattern):
            classes = [found.cls for found in ast.walk(pattern) if isinstance(found, ast.MatchClass)]
            return any(names_in(name) & tasks for name in classes)
        case ast.Dict(keys=keys):
            return sum(isinstance(key, ast.Name) and key.id in tasks for key in keys)
        case ast.Compare():
            return "task_name" in names_in(node)
    return 0


def test_code_elsewhere_hardly_ever_branches_on_the_class_of_a_task():
    tasks = {
        node.name
        for path in TASKS.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    assert "Retrieval" in tasks
    branches = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '')}"
        for package in ("clipbert_jax", "data_pipelines", "experiments")
        for path in sorted((ROOT / package).rglob("*.py"))
        if not any(path.is_relative_to(folder) for folder in EXEMPT)
        for node in ast.walk(ast.parse(path.read_text()))
        for _ in range(num_branches(node, tasks))
    ]
    assert len(branches) <= AT_MOST, "\n".join(branches)
