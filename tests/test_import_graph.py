"""Dependencies run one way: experiments -> data_pipelines -> clipbert_jax; between rooms and files too.

A file that grows past 350 lines has a second concept in it.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]

FORBIDDEN = {
    # The library takes arrays and gives arrays: it opens no video and knows no dataset.
    "clipbert_jax": {
        "data_pipelines",
        "experiments",
        "benchmarks",
        "av",
        "cv2",
        "grain",
        "tensorflow_datasets",
        "array_record",
        "transformers",
        "tyro",
    },
    "data_pipelines": {"experiments", "benchmarks", "tyro"},
    "experiments": {"benchmarks"},
    "benchmarks": {"tyro"},
}
# These run on machines that have JAX and no data pipeline.
for name in (
    "bench",
    "measure",
    "stages",
    "report",
    "programs",
    "workloads",
    "compile_check",
    "compile_one",
    "torch_pixel_encoder",
    "torch_model",
    "torch_trainer",
    "torch_peer",
):
    FORBIDDEN[f"benchmarks/{name}.py"] = {
        "experiments",
        "data_pipelines",
        "av",
        "cv2",
        "grain",
        "tensorflow_datasets",
    }
EVERYWHERE_FORBIDDEN = {"tensorflow", "torch"}
ALLOWED = {
    f"benchmarks/{name}.py": {"torch"}
    for name in ("torch_pixel_encoder", "torch_model", "torch_trainer", "torch_peer")
}


PACKAGES = ("clipbert_jax", "data_pipelines", "experiments")

FLOORS = (
    ("cli", "demo"),
    ("commands",),
    ("notebook",),
    ("pointing", "findings"),
    ("serve",),
    ("search", "probe"),
    ("prediction", "estimate", "conversion", "reports"),
    ("runs",),
    ("evaluators", "configs"),
    ("runtime",),
    ("experiment", "input_checks", "old_names"),
    ("launch",),
)
"""Rooms of `experiments/`, the top floor first. A room imports from the floors below it only."""


def imported_modules(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of every import in a file, late ones in functions included."""
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full, not relative"
            yield node.lineno, node.module or ""


def sources_of(package: str) -> list[pathlib.Path]:
    path = ROOT / package
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_nothing_that_comes_after_it(package: str):
    files = sources_of(package)
    assert files
    forbidden = FORBIDDEN[package] | EVERYWHERE_FORBIDDEN
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imported_modules(path)
        if name.split(".")[0] in forbidden - ALLOWED.get(str(path.relative_to(ROOT)), set())
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_is_called_utils():
    packages = [path for package in FORBIDDEN for path in sources_of(package)]
    assert not [path for path in packages if path.stem in {"utils", "util", "helpers", "common", "misc"}]


@functools.cache
def import_graph() -> dict[str, set[str]]:
    """Return file -> files of the product that it imports, late imports and those for types included."""
    files = {module_of(path): path for package in PACKAGES for path in sources_of(package)}
    graph = {}
    for module, path in files.items():
        names = {name for _, name in imported_modules(path)} | set(imported_names(path))
        graph[module] = (names & files.keys()) - {module}
    return graph


def module_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_names(path: pathlib.Path) -> Iterator[str]:
    """Yield `package.name` for each `from package import name`: the name may be a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """Return the folder of a file below its package; a file directly in the package is its own room."""
    return ".".join(module.split(".")[:2])


def circle_of(graph: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_each_other_in_a_circle():
    assert not circle_of(import_graph())


def test_no_rooms_import_each_other_in_a_circle():
    rooms: dict[str, set[str]] = {}
    for module, imported in import_graph().items():
        here = room_of(module)
        rooms.setdefault(here, set()).update({room_of(name) for name in imported} - {here})
    assert not circle_of(rooms)


def test_rooms_of_experiments_import_from_lower_floors_only():
    floors = {f"experiments.{room}": floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    modules = {module for module in import_graph() if module.startswith("experiments.")}
    assert {room_of(module) for module in modules} == floors.keys(), "every room has its place in FLOORS"
    wrong = [
        f"{module} imports {name}"
        for module in sorted(modules)
        for name in sorted(import_graph()[module] & modules)
        if room_of(name) != room_of(module) and floors[room_of(name)] <= floors[room_of(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_longer_than_350_lines():
    files = [
        path for package in PACKAGES for kind in ("*.py", "*.js") for path in (ROOT / package).rglob(kind)
    ]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_the_training_loop_reads_on_one_page():
    tree = ast.parse((ROOT / "clipbert_jax" / "training" / "loop.py").read_text())
    (train,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert train.end_lineno is not None
    assert train.end_lineno - train.lineno < 80
