"""The account of costs against programs that JAX traces, XLA's own count, and cases worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from flax import nnx

from benchmarks.programs import costs_of
from benchmarks.workloads import ACCELERATOR, DEMO, Workload, synthetic_batch
from clipbert_jax.config import ClipBertConfig
from clipbert_jax.costs.model import Costs, model_costs
from clipbert_jax.costs.sizes import BatchShape
from clipbert_jax.costs.work import Assumptions, Counter, LayerCost, Product, Work
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import (
    ClassifierHeadConfig,
    HeadConfig,
    PretrainingHeadConfig,
    RegressionHeadConfig,
)
from clipbert_jax.models.kernel_choices import KernelChoices
from clipbert_jax.models.model_def import split_model
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.step import make_train_state, make_train_step

RETRIEVAL, INFERENCE, PAIRS, PRETRAINING, _ = ACCELERATOR
TINY_INFERENCE, TINY_TRAINING = DEMO


# ---- The program ------------------------------------------------------------------------------------------


def program(workload: Workload, kernels: KernelChoices) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the train step, or the model, and its arguments; of the state only shapes are made."""
    mesh = make_mesh(jax.devices()[:1])
    optimizer = make_optimizer(OptimizerConfig(), num_steps=10)
    model_defs = []

    def init() -> Any:
        model = ClipBert(workload.model, workload.task.head, rngs=nnx.Rngs(0), kernels=kernels)
        model_def, state = make_train_state(model, optimizer, mesh)
        model_defs.append(model_def)
        return state

    state, batch = jax.eval_shape(init), synthetic_batch(workload)
    (model_def,) = model_defs
    if workload.kind == "train":
        return make_train_step(model_def, workload.task, optimizer, mesh, seed=0), (state, batch)

    def call(arrays: Any, frames: Any, text_ids: Any, text_mask: Any) -> Any:
        return model_def.merge(arrays)(frames, text_ids, text_mask).scores

    return call, ({**state.params, **state.frozen}, batch.frames, batch.text_ids, batch.text_mask)


def product_flops(jaxpr: Any) -> int:
    """Count matrix products and convolutions of a traced program, and of the programs inside of it."""
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval, equation.outvars[0].aval
        out_features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        # The gradient of a strided convolution is one of an input with holes: only a share of it counts.
        num_holes = math.prod(equation.params["lhs_dilation"])
        return 2 * out.size * (kernel.size // out_features) // num_holes
    num_times = equation.params["length"] if equation.primitive.name == "scan" else 1
    return num_times * sum(product_flops(inner) for inner in _inner_programs(equation))


def _inner_programs(equation: Any) -> Iterator[Any]:
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            yield getattr(value, "jaxpr", value)


def small(workload: Workload, *, num_frozen_stages: int = 2, **changes: Any) -> Workload:
    """Return a workload of a base model with few layers, on few pixels."""
    encoder = dataclasses.replace(
        workload.model.pixel_encoder, stage_blocks=(1, 2, 1, 1), num_frozen_stages=num_frozen_stages
    )
    fusion = dataclasses.replace(workload.model.fusion, num_layers=2, vocab_size=1000)
    model = dataclasses.replace(workload.model, pixel_encoder=encoder, fusion=fusion)
    return dataclasses.replace(workload, model=model, batch_size=2, num_clips=3, size=192, **changes)


PROGRAMS = {
    "tiny inference": TINY_INFERENCE,
    "tiny training": TINY_TRAINING,
    "inference": small(INFERENCE),
    "counting": small(INFERENCE, task=CountQA()),
    "retrieval": small(RETRIEVAL),
    "retrieval, all stages frozen": small(RETRIEVAL, num_frozen_stages=5),
    "pretraining": small(PRETRAINING),
    "pretraining on 4 of 9 visual tokens": small(PRETRAINING, task=Pretraining(num_sampled_tokens=4)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_flops_are_those_of_the_traced_program(name: str):
    function, arguments = program(PROGRAMS[name], KernelChoices())
    assert costs_of(PROGRAMS[name]).flops == product_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize(
    "kernels",
    [
        KernelChoices(trims_last_layer=False),
        KernelChoices(pointwise_products=("res2", "res3"), window_products=("res3", "grid_encoder")),
    ],
)
def test_flops_are_those_of_any_kernels(kernels: KernelChoices):
    workload = small(RETRIEVAL)
    function, arguments = program(workload, kernels)
    flops = costs_of(workload, trimmed_last_layer=kernels.trims_last_layer).flops
    assert flops == product_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def xla_flops(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """Return XLA's count for the lowered program, which is not compiled."""
    # Leaves alone: JAX puts descriptions in the place of arrays, which a batch refuses to hold.
    leaves, structure = jax.tree.flatten(arguments)
    lowered = jax.jit(lambda leaves: function(*jax.tree.unflatten(structure, leaves))).lower(leaves)
    return (lowered.cost_analysis() or {})["flops"]


@pytest.mark.parametrize("workload", DEMO, ids=lambda workload: workload.name)
def test_flops_of_tiny_are_about_those_that_xla_counts(workload: Workload):
    # XLA counts elementwise arithmetic too, much of a narrow model, and no products with padded zeros.
    assert costs_of(workload).flops == pytest.approx(xla_flops(*program(workload, KernelChoices())), rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("workload", [RETRIEVAL, INFERENCE, PRETRAINING], ids=lambda workload: workload.name)
def test_flops_of_base_are_about_those_that_xla_counts(workload: Workload):
    workload = dataclasses.replace(workload, batch_size=1)
    # Products with padded zeros are 9 % of those of a 3x3 convolution on 14x14 places.
    assert costs_of(workload).flops == pytest.approx(xla_flops(*program(workload, KernelChoices())), rel=0.03)


# ---- Parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [ClipBertConfig.base(), ClipBertConfig.tiny()], ids=["base", "tiny"])
@pytest.mark.parametrize(
    "head", [ClassifierHeadConfig(num_outputs=7), RegressionHeadConfig(), PretrainingHeadConfig()]
)
def test_parameters_are_those_of_the_model(config: ClipBertConfig, head: HeadConfig):
    _, trained, frozen = jax.eval_shape(
        lambda: (None, *split_model(ClipBert(config, head, rngs=nnx.Rngs(0)))[1:])
    )
    num_trained, num_frozen = (sum(x.size for x in jax.tree.leaves(part)) for part in (trained, frozen))
    costs = model_costs(config, head, dataclasses.replace(SMALL_SHAPE, is_training=False))
    assert costs.num_parameters == num_trained + num_frozen
    assert costs.num_trained == num_trained


# ---- Layers by hand ---------------------------------------------------------------------------------------

SMALL_SHAPE = BatchShape(
    num_videos=1,
    num_clips=2,
    num_frames=1,
    height=64,
    width=128,
    num_texts=3,
    text_length=5,
    is_training=True,
)
DENSE = Product(
    name="dense", stage="head", num_rows=10, in_features=3, out_features=5, num_saved=1, num_gates=1
)
POINTWISE = Product(
    name="conv", stage="res3", num_rows=25, num_input_rows=100, in_features=4, out_features=8, num_trained=0
)


def counter(*, is_training: bool = True, **assumptions: bool) -> Counter:
    return Counter(
        element_bytes=2, parameter_bytes=4, is_training=is_training, assumptions=Assumptions(**assumptions)
    )


def layer(costs: Costs, name: str) -> LayerCost:
    (found,) = [layer for layer in costs.layers if layer.name == name]
    return found


def test_dense_layer_with_fused_epilogue():
    # 30 inputs and 50 outputs (and 50 saved) of 2 bytes, 15 weights of 4.
    cost = counter().product(DENSE)
    assert cost.forward == Work(flops=300, bytes=60 + 100 + 100 + 60)
    assert cost.input_gradient == Work(flops=300, bytes=100 + 60 + 60, pass_bytes=3 * 60)
    assert cost.weight_gradient == Work(flops=300, bytes=60 + 100 + 60)
    assert cost.num_parameters == cost.num_trained == 20


def test_dense_layer_with_passes_of_their_own():
    cost = counter(fused_epilogues=False, fused_gradients=True).product(DENSE)
    assert cost.forward == Work(flops=300, bytes=60 + 100 + 60, pass_bytes=2 * 100)
    assert cost.input_gradient == Work(flops=300, bytes=100 + 60 + 2 * 60)


def test_inference_saves_nothing_and_has_no_gradients():
    cost = counter(is_training=False).product(DENSE)
    assert cost.forward == Work(flops=300, bytes=60 + 100 + 60)
    assert cost.input_gradient == cost.weight_gradient == Work()


def test_strided_convolution_reads_what_it_uses_and_gives_all_a_gradient():
    cost = counter().product(POINTWISE)
    assert cost.forward == Work(flops=2 * 25 * 32, bytes=25 * 4 * 2 + 25 * 8 * 2 + 32 * 4)
    assert cost.input_gradient.bytes == 25 * 8 * 2 + 32 * 4 + 100 * 4 * 2
    assert cost.weight_gradient == Work()  # frozen


def test_gradients_start_after_the_first_trained_layer():
    costs = model_costs(ClipBertConfig.base(), ClassifierHeadConfig(num_outputs=2), SMALL_SHAPE)
    for name in ("stem.conv", "stem.max_pool", "res2.0.conv1", "res2.2.conv3"):
        assert layer(costs, name).input_gradient == layer(costs, name).weight_gradient == Work()
    for name in ("res3.0.conv1", "res3.0.shortcut"):
        assert layer(costs, name).input_gradient == Work()
        assert layer(costs, name).weight_gradient.flops == layer(costs, name).forward.flops
    for name in ("res3.0.conv2", "res3.1.conv1", "grid_encoder.conv", "fusion.0.qkv", "head.pooler"):
        assert layer(costs, name).input_gradient.flops == layer(costs, name).forward.flops


def test_attention_is_counted_per_pair_of_tokens():
    # 64 x 128 pixels give a grid of 1 x 2; 6 pairs of 5 + 2 tokens of width 768 in 12 heads, in float32.
    assumptions = Assumptions(materialized_attention=False)
    config, head = ClipBertConfig.base(), ClassifierHeadConfig(num_outputs=2)
    through_memory = layer(model_costs(config, head, SMALL_SHAPE), "fusion.3.attention_scores")
    on_chip = layer(model_costs(config, head, SMALL_SHAPE, assumptions), "fusion.3.attention_scores")
    assert through_memory.forward.flops == on_chip.forward.flops == 2 * 6 * 7 * 7 * 768
    assert through_memory.input_gradient.flops == 2 * through_memory.forward.flops
    assert on_chip.forward == Work(flops=on_chip.forward.flops, bytes=2 * 6 * 7 * 768 * 4)
    squares = 6 * 12 * 7 * 7 * 4
    assert through_memory.forward.bytes == on_chip.forward.bytes + squares
    assert through_memory.forward.pass_bytes == 2 * squares


def test_optimizer_moves_eight_arrays_of_trained_parameters():
    costs = costs_of(TINY_TRAINING)
    assert layer(costs, "optimizer").update == Work(bytes=8 * 4 * costs.num_trained)
    assert all(layer.stage != "optimizer" for layer in costs_of(TINY_INFERENCE).layers)


def test_stages_are_in_the_order_of_the_forward_pass():
    stages = list(dict.fromkeys(layer.stage for layer in costs_of(RETRIEVAL).layers))
    encoder = ["stem", "res2", "res3", "res4", "res5", "grid_encoder"]
    assert stages == [*encoder, "embeddings", "fusion", "head", "optimizer"]
    assert {layer.stage for layer in costs_of(PAIRS).layers} == {"embeddings", "fusion", "head"}


def test_msrvtt_training_is_2_1_tflop_for_each_video():
    flops = costs_of(RETRIEVAL, trimmed_last_layer=False).flops / RETRIEVAL.batch_size
    assert flops == pytest.approx(2102e9, rel=0.001)
