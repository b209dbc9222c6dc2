"""Set up JAX before any test imports it: the CPU as 8 devices, one private compilation cache per run."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import pkgutil
import shutil
import tempfile
from pathlib import Path

import jaxtyping
import pytest

from tests.progress import LONG_FILES, Progress
from tests.xla_flags import COMPILE_FAST, EIGHT_DEVICES, SHARED_FOLDER

_CACHE = "JAX_COMPILATION_CACHE_DIR"
_MUCH_MEMORY = 2e9
"""Bytes of a process from which on it is worth the time to look for garbage."""

os.environ["JAX_PLATFORMS"] = "cpu"
# Sharded code runs on 8 devices in every test; one-device code uses the first.
os.environ["XLA_FLAGS"] = f"{EIGHT_DEVICES} {COMPILE_FAST} {os.environ.get('XLA_FLAGS', '')}"
# Shapes and types of every annotated function are checked while the tests run. `costs` knows no arrays, and
# reads programs of 100,000 equations.
_ROOMS = [room.name for room in pkgutil.iter_modules([str(Path(__file__).parents[1] / "clipbert_jax")])]
jaxtyping.install_import_hook(
    ["data_pipelines", *(f"clipbert_jax.{name}" for name in _ROOMS if name != "costs")], "beartype.beartype"
)
# Nothing in a test may reach for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Give this run, its workers and the commands that its tests start one compilation cache and folder.

    The cache holds machine code, so it is never shared with other runs or users, and is deleted at the end.
    """
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist: it has inherited the directory
    directory = tempfile.mkdtemp(prefix="clipbert-tests-")
    config.pluginmanager.register(Progress(config), "clipbert-progress")
    for variable, name in ((_CACHE, "programs"), (SHARED_FOLDER, "shared")):
        os.environ[variable] = os.path.join(directory, name)
        os.mkdir(os.environ[variable])
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"  # to keep a smaller one takes as long
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no process is alone with one of them at the end."""
    items.sort(key=lambda item: -LONG_FILES.get(item.path.name, 0))


def pytest_collection_finish() -> None:
    """Collect garbage rarely: tracing makes millions of objects and few circles.

    What the imports have made is left out: it stays to the end.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After each file forget the models that it remembers, and give back memory if it has become much.

    Else each process would grow to 6 GB.
    """
    if nextitem is not None and nextitem.path == item.path:
        return
    for value in vars(item.module).values() if isinstance(item, pytest.Function) else ():
        if hasattr(value, "cache_clear") and value.__module__ == item.module.__name__:
            value.cache_clear()
    if _resident_bytes() > _MUCH_MEMORY:
        gc.collect()
        with contextlib.suppress(AttributeError):  # of glibc alone
            ctypes.CDLL(None).malloc_trim(0)


def _resident_bytes() -> float:
    with contextlib.suppress(OSError):  # of Linux alone
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return math.inf
