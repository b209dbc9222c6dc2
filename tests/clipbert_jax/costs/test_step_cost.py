"""Kernels of small programs by hand: what is fused, what is moved, what is alive at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from clipbert_jax.costs.devices import DEVICES, Device
from clipbert_jax.costs.kernels import make_kernels
from clipbert_jax.costs.program import read_program
from clipbert_jax.costs.step_cost import peak_memory, step_bytes, step_floor, step_flops

N, D = 1000, 64
X, W, B = jnp.ones((N, D)), jnp.ones((D, D)), jnp.ones(D)
ARRAY, WEIGHTS = 4 * N * D, 4 * D * D
DEVICE = Device(bf16_flops=1e9, fp32_flops=1e8, bandwidth=1e6, source="made up")


def kernels(function, *arguments, platform="gpu", is_training=False):
    jaxpr = jax.make_jaxpr(function)(*arguments)
    return make_kernels(read_program(jaxpr, platform=platform, is_training=is_training), platform)


def test_a_product_takes_in_what_follows_it():
    made = kernels(lambda x, w, b: jax.nn.relu(x @ w + b), X, W, B)
    assert len(made) == 1
    assert step_bytes(made) == 2 * ARRAY + WEIGHTS + 4 * D
    assert peak_memory(made).num_bytes == 0  # an output, and nothing besides


def test_passes_over_the_same_array_are_one():
    made = kernels(lambda x: jax.nn.softmax(x, axis=-1), X)
    assert step_bytes(made) == 2 * ARRAY


def test_an_operand_of_a_product_is_in_memory():
    made = kernels(lambda x, w: jax.nn.relu(x @ w) @ w, X, W)
    assert step_bytes(made) == 4 * ARRAY + 2 * WEIGHTS
    assert peak_memory(made).num_bytes == ARRAY


def test_the_backward_pass_computes_cheap_values_again():
    def loss(w, x):
        return jnp.sum(jnp.square(jax.nn.relu(x @ w)))

    made = kernels(jax.grad(loss), W, X)
    assert peak_memory(made).before_backward == ARRAY  # the result of the ReLU alone


def test_a_loop_needs_its_own_arrays_once():
    def turns(x, w):
        return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ w) @ w, None), x, length=5)[0]

    made = kernels(turns, X, W)
    assert step_bytes(made) == 5 * (4 * ARRAY + 2 * WEIGHTS)
    assert peak_memory(made).num_bytes == ARRAY


def test_rematerialisation_saves_memory_and_costs_time():
    def block(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    def loss(w, x, wrap):
        for _ in range(4):
            x = wrap(block)(x, w)
        return jnp.sum(x)

    plain, again = (
        kernels(jax.grad(lambda w, x, wrap=wrap: loss(w, x, wrap)), W, X, is_training=True)
        for wrap in (lambda function: function, jax.checkpoint)
    )
    assert peak_memory(again).num_bytes < peak_memory(plain).num_bytes
    assert step_floor(again, DEVICE).recomputed > step_floor(plain, DEVICE).recomputed == 0


def test_a_kernel_takes_the_longer_of_operations_and_bytes():
    (product,) = kernels(jnp.dot, X, W)
    floor = step_floor([product], DEVICE)
    assert floor.total == floor.forward == max(2 * N * D * D / 1e8, product.num_bytes / 1e6)
    half = kernels(jnp.dot, X.astype(jnp.bfloat16), W.astype(jnp.bfloat16))
    assert step_floor(half, DEVICE).total == pytest.approx(floor.total / 2, rel=0.1)


def test_a_device_without_figures_says_so():
    with pytest.raises(ValueError, match="measure_device"):
        step_floor(kernels(jnp.dot, X, W), DEVICES["cpu"])


def test_operations_add_up():
    program = read_program(jax.make_jaxpr(jax.grad(lambda w, x: jnp.sum(jnp.sin(x @ w) @ w)))(W, X))
    flops = step_flops(program)
    assert flops.total == flops.forward + flops.backward
