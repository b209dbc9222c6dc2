"""Compiling in another environment: what is asked for, and what is said if it cannot be."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

from benchmarks.programs import train_setting
from benchmarks.workloads import DEMO
from clipbert_jax.costs import compiler
from clipbert_jax.costs.compiler import (
    PLUGINS,
    num_devices_of,
    packages_to_compile,
)
from clipbert_jax.costs.devices import DEVICES, GPUS, platform_of
from clipbert_jax.errors import UserError
from experiments.estimate.compile_elsewhere import CompileRequest, compile_elsewhere

REQUEST = CompileRequest(setting=train_setting(DEMO[1]), target="v5e:2x4")


def test_targets_are_a_kind_and_a_shape():
    assert [num_devices_of(target) for target in ("v5e:16x16", "v5p:2x2x2", "h100:8")] == [256, 8, 8]
    assert [platform_of(target) for target in ("v6e:2x4", "a100:1", "cpu")] == ["tpu", "gpu", "cpu"]
    for wrong in ("v5e", "v5e:", "v5e:0x4", "h100:x8"):
        with pytest.raises(UserError, match="v5e:16x16"):
            num_devices_of(wrong)


def test_every_gpu_has_figures_and_a_description():
    for gpu in GPUS:
        text = pathlib.Path(compiler.__file__).with_name(f"{gpu}.txtpb").read_text()
        memory_bytes = int(text.split("device_memory_size: ")[1].split()[0])
        assert memory_bytes == pytest.approx(DEVICES[gpu].memory_bytes, rel=0.08)


@pytest.mark.skipif(importlib.util.find_spec(PLUGINS["tpu"]) is not None, reason="the compiler is here")
def test_an_environment_without_the_compiler_is_told_how_to_make_one():
    with pytest.raises(UserError, match="it lacks libtpu") as error:
        compile_elsewhere(REQUEST)
    for package in packages_to_compile("tpu"):
        assert package in str(error.value)
    assert "--python .venv-tpu/bin/python" in str(error.value)


def interpreter(path: pathlib.Path, script: str) -> str:
    """Write what stands for an interpreter."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


def test_what_is_no_interpreter_or_breaks_is_said(tmp_path):
    with pytest.raises(UserError, match="not a Python interpreter"):
        compile_elsewhere(REQUEST, str(tmp_path / "nothing"))
    broken = interpreter(tmp_path / "broken", "echo 'RESOURCE_EXHAUSTED: 17.2G of 16G' >&2; exit 1")
    with pytest.raises(UserError, match=r"v5e:2x4 failed: RESOURCE_EXHAUSTED: 17\.2G of 16G"):
        compile_elsewhere(REQUEST, broken)
    with pytest.raises(UserError, match="--timeout-minutes"):
        compile_elsewhere(REQUEST, interpreter(tmp_path / "slow", "exec sleep 60"), timeout_seconds=0.2)


def test_nothing_but_this_package_comes_along(tmp_path):
    # What is installed beside it would hide the packages of the other environment.
    looking = interpreter(
        tmp_path / "looking", 'echo "Error: $(echo $PYTHONPATH/*/ | xargs -n1 basename | xargs)" >&2; exit 1'
    )
    with pytest.raises(UserError, match=r"failed: Error: clipbert_jax experiments$"):
        compile_elsewhere(REQUEST, looking)
