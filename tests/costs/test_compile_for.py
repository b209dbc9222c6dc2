"""Compiling in another environment: what is asked for, and what is said if it cannot be."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from benchmarks.programs import train_setting
from benchmarks.workloads import DEMO
from clipbert_jax.costs.compile_for import (
    GPUS,
    PLUGINS,
    CompileRequest,
    compile_elsewhere,
    num_devices_of,
    packages_to_compile,
    platform_of,
)
from clipbert_jax.costs.devices import DEVICES
from clipbert_jax.errors import UserError

REQUEST = CompileRequest(setting=train_setting(DEMO[1]), target="v5e:2x4")


def test_targets_are_a_kind_and_a_shape():
    assert [num_devices_of(target) for target in ("v5e:16x16", "v5p:2x2x2", "h100:8")] == [256, 8, 8]
    assert [platform_of(target) for target in ("v6e:2x4", "a100:1", "cpu")] == ["tpu", "gpu", "cpu"]
    for wrong in ("v5e", "v5e:", "v5e:0x4", "h100:x8"):
        with pytest.raises(UserError, match="v5e:16x16"):
            num_devices_of(wrong)


def test_every_gpu_has_figures_and_a_description():
    for gpu in GPUS:
        assert DEVICES[gpu].memory_bytes
        source = importlib.util.find_spec("clipbert_jax.costs.compile_for")
        assert source is not None
        assert source.origin is not None
        text = open(source.origin.replace("compile_for.py", f"{gpu}.txtpb")).read()
        memory = int(text.split("device_memory_size: ")[1].split()[0])
        assert memory == pytest.approx(DEVICES[gpu].memory_bytes, rel=0.08)


@pytest.mark.skipif(importlib.util.find_spec(PLUGINS["tpu"]) is not None, reason="the compiler is here")
def test_an_environment_without_the_compiler_is_told_how_to_make_one():
    with pytest.raises(UserError, match="it lacks libtpu") as error:
        compile_elsewhere(REQUEST)
    for package in packages_to_compile("tpu"):
        assert package in str(error.value)
    assert "--python .venv-tpu/bin/python" in str(error.value)


def test_what_is_no_interpreter_or_breaks_is_said(tmp_path):
    with pytest.raises(UserError, match="no interpreter"):
        compile_elsewhere(REQUEST, str(tmp_path / "python"))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'RESOURCE_EXHAUSTED: 17.2G of 16G' >&2\nexit 1\n")
    broken.chmod(0o700)
    with pytest.raises(UserError, match=r"v5e:2x4 failed: RESOURCE_EXHAUSTED: 17\.2G of 16G"):
        compile_elsewhere(REQUEST, str(broken))
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o700)
    with pytest.raises(UserError, match="--timeout-minutes"):
        compile_elsewhere(REQUEST, str(slow), timeout_seconds=0.2)


def test_a_request_reaches_an_interpreter_whose_packages_are_elsewhere(tmp_path):
    # The package comes along alone: what lies beside it would hide packages of the other environment.
    probe = tmp_path / "python"
    probe.write_text(
        f'#!/bin/sh\nls "$PYTHONPATH" >&2; exec {sys.executable} -c '
        "'import clipbert_jax.costs.compile_for as found, sys, pickle; "
        'sys.exit(pickle.load(sys.stdin.buffer).target + " Error " + str(found.__file__))\'\n'
    )
    probe.chmod(0o700)
    with pytest.raises(
        UserError, match=r"v5e:2x4 Error /tmp.*|v5e:2x4 Error .*clipbert_jax/costs/compile_for.py"
    ):
        compile_elsewhere(REQUEST, str(probe))
