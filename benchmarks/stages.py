"""Times of the parts of the model, each as a program of its own, for comparison with their rooflines."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.programs import make_model, visual_tokens_shape
from benchmarks.workloads import Workload, synthetic_batch
from clipbert_jax.costs.devices import known_device
from clipbert_jax.costs.kernels import make_kernels
from clipbert_jax.costs.program import read_program
from clipbert_jax.costs.step_cost import step_floor
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.kernel_choices import KernelChoices

_NUM_CALLS, _NUM_WARMUP_CALLS = 10, 3


def time_stages(workload: Workload, kernels: KernelChoices) -> dict[str, dict[str, float]]:
    """Return the seconds `forward` and, in training, `backward` of each part on one device.

    If the rates of the device are known, `forward_floor` and `backward_floor` are the shortest possible
    times. The backward time is that of both passes less that of the forward pass. Parts lose what fusions
    across their borders save, so their sum may exceed the whole.
    """
    model = make_model(workload, kernels)
    # The kernel that fuses attention hides its products.
    products = dataclasses.replace(kernels, has_fused_attention=False)
    traced_model = nnx.eval_shape(lambda: make_model(workload, products))
    names = ["stem", *model.pixel_encoder.stages]
    frozen = names[: workload.model.pixel_encoder.num_frozen_stages]
    first_trained = names[len(frozen)] if len(frozen) < len(names) else "grid_encoder"
    times = {}
    for name, (stage, x) in _inputs(workload, model).items():
        arrays = nnx.split(model)[1]
        forward, both = _programs(model, stage, has_input_gradient=name != first_trained)
        to_trace = _programs(traced_model, stage, has_input_gradient=name != first_trained)
        times[name] = {"forward": _seconds(lambda f=forward, a=arrays, x=x: f(a, x))}
        times[name] |= _floor("forward_floor", to_trace[0], arrays, x)
        if workload.kind == "train" and name not in frozen:
            total = _seconds(lambda f=both, a=arrays, x=x: f(a, x))
            times[name]["backward"] = max(total - times[name]["forward"], 0.0)
            times[name] |= _floor("backward_floor", to_trace[1], arrays, x)
    return times


Stage = Callable[[ClipBert, jax.Array], jax.Array]


def _inputs(workload: Workload, model: ClipBert) -> dict[str, tuple[Stage, jax.Array]]:
    """Return each stage as a function of the model and its input, with such an input."""
    dtype = jnp.dtype(workload.model.compute_dtype)
    random = np.random.default_rng(0)
    stages: dict[str, tuple[Stage, jax.Array]] = {}

    def add(name: str, stage: Stage, x: jax.Array) -> jax.ShapeDtypeStruct:
        stages[name] = (stage, x)
        return jax.eval_shape(lambda x: stage(model, x), x)

    def drawn(like: Any) -> jax.Array:
        return jnp.asarray(random.standard_normal(like.shape, np.float32), dtype)

    if workload.kind != "pairs":
        frames = jnp.asarray(synthetic_batch(workload).frames)
        frames = frames.reshape(-1, *frames.shape[-3:])
        out = add("stem", lambda m, x: m.pixel_encoder.run_stem(x), frames)
        for name in model.pixel_encoder.stages:
            out = add(name, lambda m, x, name=name: m.pixel_encoder.run_stage(name, x), drawn(out))
        add("grid_encoder", lambda m, x: m.pixel_encoder.grid_encoder(x), drawn(out))
    b, k, v, d = visual_tokens_shape(workload)
    tokens = jax.ShapeDtypeStruct((b * k * workload.num_texts, workload.text_length + v, d), dtype)
    rows = slice(workload.text_length if model.head.reads_text else 1)

    def fuse(m: ClipBert, x: jax.Array) -> jax.Array:
        key = jax.random.key(0) if workload.kind == "train" else None
        return m.fusion.last_states(x, jnp.ones(x.shape[:2], bool), rows, dropout_key=key)

    add("fusion", fuse, drawn(tokens))
    return stages


def _programs(model: ClipBert, stage: Stage, *, has_input_gradient: bool) -> tuple[Any, Any]:
    """Return the jitted stage, and the stage with gradients of its weights and its input."""
    graphdef = nnx.split(model)[0]

    def forward(arrays: Any, x: jax.Array) -> jax.Array:
        return stage(nnx.merge(graphdef, arrays, copy=True), x)

    def both(arrays: Any, x: jax.Array) -> Any:
        trained, frozen = nnx.split_state(arrays, nnx.Param, ...)
        operands = (trained, x) if has_input_gradient else (trained,)
        y, pull_back = jax.vjp(lambda t, x=x: forward(nnx.merge_state(t, frozen), x), *operands)
        return y, pull_back(y)

    return jax.jit(forward), jax.jit(both)


def _floor(key: str, program: Any, arrays: Any, x: jax.Array) -> dict[str, float]:
    """Return the shortest possible seconds of one way through a part, under a key."""
    device = known_device(jax.devices()[0].device_kind)
    if device is None:
        return {}
    traced = read_program(program.trace(arrays, x).jaxpr, is_training=False)
    floor = step_floor(make_kernels(traced), device)
    return {key: floor.backward if key.startswith("backward") else floor.forward}


def _seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(_NUM_WARMUP_CALLS + _NUM_CALLS):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return float(np.median(times[_NUM_WARMUP_CALLS:]))
