"""Dependencies run one way: experiments -> data_pipelines -> clipbert_jax."""

from __future__ import annotations

import ast
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
