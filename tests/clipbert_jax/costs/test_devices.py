"""Figures of devices: known ones, measured ones."""

from __future__ import annotations

import jax
import pytest

from clipbert_jax.costs.devices import DEVICES, known_device, measure_device


def test_kinds_are_found_in_the_table():
    assert known_device("NVIDIA H100 80GB HBM3") is DEVICES["h100"]
    assert known_device("TPU v5 lite") is DEVICES["v5e"]
    assert known_device("cpu") is None


def test_a_cpu_has_no_figures_until_it_is_measured():
    with pytest.raises(ValueError, match="measure_device"):
        DEVICES["cpu"].peak_flops(4)
    device = measure_device(matrix_size=64, num_copied_bytes=1 << 16)
    assert device.peak_flops(4) > 0
    assert device.memory_bytes is not None
    assert device.source.endswith(jax.devices()[0].device_kind)
