"""The product never unpickles: a pickle runs code of the person who made it."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]

UNSAFE_MODULES = {"_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unsafe_uses(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that load a pickle, or import what can."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) if any(name.name.split(".")[0] in UNSAFE_MODULES for name in names):
                yield node.lineno
            case ast.ImportFrom(module=str() as module) if module.split(".")[0] in UNSAFE_MODULES:
                yield node.lineno
            case ast.ImportFrom(module="pickle" | "torch", names=names) if any(
                "load" in name.name.lower() or "unpickler" in name.name.lower() for name in names
            ):
                yield node.lineno
            case ast.Attribute(value=ast.Name(id="pickle" | "torch"), attr=attribute) if (
                "load" in attribute.lower() or "unpickler" in attribute.lower()
            ):
                yield node.lineno
            case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
                yield value.lineno


def test_the_product_never_unpickles() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("clipbert_jax", "data_pipelines", "experiments")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in unsafe_uses(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_every_way_to_unpickle_is_found() -> None:
    for source in (
        "pickle.load(file)",
        "pickle.loads(data)",
        "class Reader(pickle.Unpickler): pass",
        "from pickle import loads",
        "from pickle import _Unpickler as Reader",
        "import marshal",
        "import shelve",
        "from joblib import load",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=wanted)",
        "torch.load(path)",
    ):
        assert list(unsafe_uses(ast.parse(source))) == [1], source
    for source in ("pickle.dumps(value, 2)", "np.load(path, allow_pickle=False)", "read_pickle(data)"):
        assert not list(unsafe_uses(ast.parse(source))), source
