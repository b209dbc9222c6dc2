"""The parts of the model: what was measured stands beside the floor of a known device."""

from __future__ import annotations

import pytest

from benchmarks import stages
from benchmarks.workloads import SMOKE, Workload
from clipbert_jax.costs.devices import DEVICES
from clipbert_jax.models.kernel_choices import default_kernel_choices

PAIRS = next(workload for workload in SMOKE if workload.kind == "pairs")


@pytest.mark.parametrize("workload", [SMOKE[0], PAIRS], ids=lambda workload: workload.kind)
def test_floors_are_of_the_order_of_the_device_s_rates(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "known_device", lambda kind: DEVICES["h100"])
    monkeypatch.setattr(stages, "_seconds", lambda call: 1e-3)  # the floors alone count here
    for times in stages.time_stages(workload, default_kernel_choices("cpu")).values():
        assert 0 < times["forward_floor"] < 1e-3
        assert ("backward" in times) == ("backward_floor" in times) == (workload.kind == "train")
        if workload.kind == "train":
            # Gradients of weights and of inputs cost about twice the forward pass.
            assert 0.5 < times["backward_floor"] / times["forward_floor"] < 10
