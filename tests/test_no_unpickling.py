"""The product never unpickles: a pickle runs code of the person who made it."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]

UNSAFE_MODULES = {"_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
PICKLERS, LOADS = {"pickle", "torch"}, re.compile("load|unpickler", re.IGNORECASE)


def unsafe_uses(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that load a pickle, or import what can."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                is_unsafe = any(name.name.split(".")[0] in UNSAFE_MODULES for name in names)
            case ast.ImportFrom(module=str() as module, names=names):
                from_pickle = module in PICKLERS and any(LOADS.search(name.name) for name in names)
                is_unsafe = module.split(".")[0] in UNSAFE_MODULES or from_pickle
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                is_unsafe = module in PICKLERS and LOADS.search(name) is not None
            case ast.keyword(arg="allow_pickle", value=value):
                is_unsafe = ast.unparse(value) != "False"
            case _:
                continue
        if is_unsafe:
            yield node.lineno


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
