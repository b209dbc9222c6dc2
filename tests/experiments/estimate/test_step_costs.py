"""What training takes: operations that are done again, floors of batches in parts, batches that fit."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.programs import costs_of, train_setting
from benchmarks.workloads import ACCELERATOR
from clipbert_jax.costs.devices import DEVICES, roofline
from clipbert_jax.training.sharding import MeshConfig
from experiments.estimate.step_costs import (
    accumulation_that_fits,
    fits,
    largest_part,
    step_bytes,
    step_floor,
    step_flops,
)

RETRIEVAL = ACCELERATOR[0]
H100, V5E = DEVICES["h100"], DEVICES["v5e"]


def test_operations_floor_and_bytes_are_those_of_the_layers():
    setting, costs = train_setting(RETRIEVAL), costs_of(RETRIEVAL)
    flops = step_flops(setting)
    assert flops.total == costs.flops
    assert flops.forward < flops.backward < 2 * flops.forward  # res2 is frozen
    assert step_floor(setting, H100).total == pytest.approx(roofline(costs, H100).seconds)
    assert step_bytes(setting) == costs.bytes


def test_what_is_computed_again():
    plain = step_flops(train_setting(RETRIEVAL))
    passes = step_flops(train_setting(RETRIEVAL, clips_per_pass=2))
    assert passes.recomputed == plain.forward
    layers = costs_of(RETRIEVAL).layers
    full = step_flops(train_setting(RETRIEVAL, remat="full"))
    again = [layer for layer in layers if layer.stage in ("res3", "res4", "res5", "fusion")]
    assert full.recomputed == sum(layer.forward.flops for layer in again)
    dots = step_flops(train_setting(RETRIEVAL, remat="dots"))
    again = [layer for layer in layers if layer.name.endswith(("attention_scores", "attention_context"))]
    assert dots.recomputed == sum(layer.forward.flops for layer in again)
    assert step_flops(train_setting(RETRIEVAL, clips_per_pass=8)).recomputed == 0  # all at once
    assert passes.total - plain.total == plain.forward
    floors = [step_floor(train_setting(RETRIEVAL, remat=remat), H100) for remat in ("none", "dots", "full")]
    assert floors[0].total < floors[1].total < floors[2].total
    assert floors[0].backward == floors[2].backward


def test_parts_take_one_update_together_and_devices_one_each():
    whole, parts = (
        step_floor(train_setting(RETRIEVAL, num_accumulation_steps=num_parts), H100) for num_parts in (1, 4)
    )
    assert whole.update == parts.update
    # A part reads the weights as the whole batch does.
    assert 1 < parts.forward / whole.forward < 1.1
    two = step_floor(train_setting(dataclasses.replace(RETRIEVAL, batch_size=32)), H100, num_devices=2)
    assert two == whole
    setting = dataclasses.replace(train_setting(RETRIEVAL), mesh=MeshConfig(fsdp=2))
    assert step_floor(setting, H100, num_devices=2).update == whole.update / 2


def test_the_batch_that_fits():
    setting = train_setting(RETRIEVAL)
    assert fits(setting, H100, "gpu")
    assert not fits(setting, V5E, "tpu")
    assert (largest_part(setting, H100, "gpu"), largest_part(setting, V5E, "tpu")) == (32, 8)
    assert accumulation_that_fits(setting, H100, "gpu") == 1
    num_parts = accumulation_that_fits(setting, V5E, "tpu")
    assert num_parts == 2
    assert fits(train_setting(RETRIEVAL, num_accumulation_steps=2), V5E, "tpu")
    assert accumulation_that_fits(setting, V5E, "tpu", num_devices=2) == 1


def test_a_device_that_is_too_small_fits_nothing():
    small = dataclasses.replace(V5E, memory_bytes=10**9)
    setting = train_setting(RETRIEVAL)
    assert largest_part(setting, small, "tpu") == 0
    assert accumulation_that_fits(setting, small, "tpu") is None
