"""The walk over a traced program: operations of products, purposes, loops, sizes that stand for others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from benchmarks.programs import trace_workload
from benchmarks.workloads import DEMO
from clipbert_jax.costs.program import count_flops, read_program

X, W = jnp.ones((10, 3)), jnp.ones((3, 3))


def read(function, *arguments, **options):
    return read_program(jax.make_jaxpr(function)(*arguments), **options)


def loss(w, x):
    return jnp.sum(jnp.tanh(x @ w) @ w)


def test_products_are_counted_by_purpose():
    product = 2 * 10 * 3 * 3
    assert count_flops(read(loss, W, X)) == 2 * product
    program = read(jax.grad(loss), W, X)
    assert count_flops(program, "forward") == product  # the loss itself is dead: only tanh is needed
    assert count_flops(program, "backward") == 3 * product  # two weight gradients, one of the input
    again = read(jax.grad(jax.checkpoint(loss)), W, X)
    assert count_flops(again, "recomputed") == product


def test_loops_count_as_often_as_they_turn():
    def turns(w, x):
        return jax.lax.scan(lambda carry, _: (carry @ w, None), x, length=7)[0]

    assert count_flops(read(turns, W, X)) == 7 * 2 * 10 * 3 * 3


def test_convolutions_count_windows_and_no_holes():
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 5))

    def convolve(kernel, x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=dimensions)

    flops = 2 * 4 * 4 * 9 * 4 * 5
    assert count_flops(read(convolve, kernel, x)) == flops
    gradients = jax.grad(lambda *arrays: jnp.sum(convolve(*arrays) ** 2), argnums=(0, 1))
    assert count_flops(read(gradients, kernel, x)) == 3 * flops


def test_views_and_dead_equations_are_no_operations():
    program = read(lambda x: (jnp.sin(x), x.T.reshape(-1))[1] + 1, X)
    assert [operation.name for operation in program.operations] == ["add"]


@pytest.mark.parametrize("num_rows", [2, 300])
def test_one_trace_stands_for_all_sizes(num_rows):
    prime = read(jax.grad(loss), W, jax.ShapeDtypeStruct((1009, 3), jnp.float32), sizes={1009: num_rows})
    there = read(jax.grad(loss), W, jax.ShapeDtypeStruct((num_rows, 3), jnp.float32))
    assert count_flops(prime) == count_flops(there)
    assert [value.num_elements for operation in prime.operations for value in operation.outputs] == [
        value.num_elements for operation in there.operations for value in operation.outputs
    ]


def test_a_cpu_reads_bfloat16_products_as_float32():
    program = read(jnp.dot, X.astype(jnp.bfloat16), W.astype(jnp.bfloat16), platform="cpu")
    assert {value.element_bytes for value in program.inputs} == {4}


@pytest.mark.parametrize(("workload", "flops"), [(DEMO[0], 0), (DEMO[1], 0)], ids=["inference", "training"])
def test_operations_of_the_model_are_the_same_however_it_is_written(workload, flops):
    of_gpu, of_tpu = (count_flops(trace_workload(workload, platform)) for platform in ("gpu", "tpu"))
    assert of_gpu == of_tpu > flops
