"""A model as a function of arrays: weights as they are stored, platforms, and how far predictions differ."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.export import (
    InputShape,
    compare,
    export_program,
    make_predict,
    quantize,
    restore_weights,
    store_weights,
)
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.model_def import split_model
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.retrieval import Retrieval

TASK = Retrieval(consensus="log_sum_exp")
SHAPE = InputShape(num_videos=2, num_clips=3, num_frames=1, size=48, num_texts=2, text_length=6)
LIMIT = "jax_traceback_in_locations_limit"
WORDS = "text_encoder/word_embeddings/embedding"


@pytest.fixture(scope="module")
def config():
    return ClipBertConfig.tiny()


def shapes(config):
    """ModelDef of a model, and its parameters as shapes."""
    model = nnx.eval_shape(lambda: ClipBert(config, TASK.head, rngs=nnx.Rngs(0)))
    model_def, trainable, frozen = split_model(model)
    return model_def, {**trainable, **frozen}


@pytest.fixture(scope="module")
def parameters(config):
    rng = np.random.default_rng(1)
    return {
        name: rng.normal(1 if name.endswith(("scale", "variance")) else 0, 0.1, struct.shape).astype(
            np.float32
        )
        for name, struct in shapes(config)[1].items()
    }


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    frames, ids, mask = SHAPE.structs()
    lengths = rng.integers(2, SHAPE.text_length + 1, ids.shape[:2])
    return (
        rng.integers(0, 256, frames.shape, frames.dtype),
        rng.integers(0, 256, ids.shape, ids.dtype),
        np.arange(mask.shape[-1]) < lengths[..., None],
    )


@pytest.fixture(scope="module")
def expected(config, parameters, inputs):
    """What the model and the task say."""
    model_def, _ = shapes(config)
    output = jax.jit(lambda weights, *arrays: model_def.merge(weights)(*arrays))(parameters, *inputs)
    return jax.nn.sigmoid(TASK.match_logit(output.scores))


def test_whole_numbers_are_half_a_step_off_at_most_in_every_channel():
    array = np.random.default_rng(0).normal(size=(3, 3, 5, 7)).astype(np.float32)
    array *= 10.0 ** np.arange(7)  # channels of very different size
    array[..., 2] = 0
    whole, scale = quantize(array, axis=-1)
    assert whole.dtype == np.int8
    assert scale.shape == (1, 1, 1, 7)
    assert np.abs(whole).max() == 127
    np.testing.assert_array_less(np.abs(whole * scale - array), np.broadcast_to(0.501 * scale, array.shape))
    assert not whole[..., 2].any()


def test_a_word_has_its_own_scale():
    stored = store_weights({WORDS: np.array([[1.0, 2.0], [100.0, 50.0]])}, dtype="float32", kind="int8")
    np.testing.assert_array_equal(stored[WORDS], [[64, 127], [127, 64]])
    np.testing.assert_allclose(stored[f"{WORDS}:scale"], [[2 / 127], [100 / 127]])


def test_kernels_and_words_are_whole_numbers_and_nothing_else(parameters):
    stored = store_weights(parameters, dtype="bfloat16", kind="int8")
    whole = {name for name, array in stored.items() if array.dtype == np.int8}
    assert whole == {name for name in parameters if name.endswith("kernel")} | {WORDS}
    others = {name: array for name, array in stored.items() if name in parameters.keys() - whole}
    for name, array in others.items():
        assert array.dtype == (np.float32 if array.ndim == 1 else jnp.bfloat16), name
    assert "fusion/layers/0/query/bias" in others
    assert "pixel_encoder/stem/norm/variance" in others


def test_what_is_restored_are_the_parameters(parameters):
    restored = restore_weights(store_weights(parameters, dtype="float32", kind="float"))
    assert restored.keys() == parameters.keys()
    assert all(np.array_equal(restored[name], parameters[name]) for name in parameters)
    restored = restore_weights(store_weights(parameters, dtype="float32", kind="int8"))
    assert restored.keys() == parameters.keys()
    for name, array in restored.items():
        assert array.shape == parameters[name].shape
        np.testing.assert_allclose(array, parameters[name], atol=np.abs(parameters[name]).max() / 250)


def test_int8_takes_about_a_quarter_of_float32():
    config = ClipBertConfig.tiny(vocab_size=1000)
    fusion = dataclasses.replace(config.fusion, hidden_size=128, intermediate_size=512)
    wide = dataclasses.replace(config, fusion=fusion)
    parameters = {name: np.zeros(struct.shape) for name, struct in shapes(wide)[1].items()}

    def size(**options):
        return sum(array.nbytes for array in store_weights(parameters, **options).values())

    float32 = size(dtype="float32", kind="float")
    assert float32 / 4 < size(dtype="float32", kind="int8") < 0.35 * float32
    assert float32 / 2 <= size(dtype="bfloat16", kind="float") < 0.55 * float32


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_function_is_the_model_and_the_task(platform, config, parameters, inputs, expected):
    predict = jax.jit(make_predict(config, TASK, platforms=[platform]))
    weights = store_weights(parameters, dtype="float32", kind="float")
    found = predict(weights, *inputs)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_bfloat16_is_close(kind, config, parameters, inputs, expected):
    config = dataclasses.replace(config, compute_dtype="bfloat16")
    predict = jax.jit(make_predict(config, TASK, platforms=["cpu"]))
    found = predict(store_weights(parameters, dtype="bfloat16", kind=kind), *inputs)
    assert 1e-6 < np.abs(found - expected).max() < 0.05


@pytest.mark.parametrize("platforms", [["cpu"], ["cuda"], ["tpu"], ["cpu", "cuda", "tpu"]])
def test_a_program_holds_no_calls_of_libraries_and_no_paths(platforms, config, parameters):
    # bfloat16, of which cuDNN would take the attention
    config = dataclasses.replace(config, compute_dtype="bfloat16")
    weights = store_weights(parameters, dtype="bfloat16", kind="float")
    predict = make_predict(config, TASK, platforms=platforms)
    exported = export_program(predict, weights, SHAPE, platforms=platforms)
    assert exported.platforms == tuple(platforms)
    assert exported.out_avals[0].shape == (2, 2)
    text = exported.mlir_module()
    assert "stablehlo.dot_general" in text
    assert "custom_call" not in text
    assert ("stablehlo.case" in text) == (len(platforms) > 1)
    program = bytes(exported.serialize())
    assert not re.search(rb"[\w/]+\.py\b", program)
    assert len(program) < 0.2 * sum(array.nbytes for array in weights.values()), "weights are arguments"


def test_each_platform_has_its_own_convolutions(config, parameters):
    weights = store_weights(parameters, dtype="float32", kind="float")

    def num_convolutions(platform):
        predict = make_predict(config, TASK, platforms=[platform])
        exported = export_program(predict, weights, SHAPE, platforms=[platform])
        return exported.mlir_module().count("stablehlo.convolution")

    assert num_convolutions("cpu") < num_convolutions("cuda") < num_convolutions("tpu")


def test_exporting_leaves_the_locations_of_other_programs_alone(config, parameters):
    before = getattr(jax.config, LIMIT)
    assert before != 0
    predict = make_predict(config, TASK, platforms=["cpu"])
    weights = store_weights(parameters, dtype="float32", kind="float")
    export_program(predict, weights, SHAPE, platforms=["cpu"])
    assert getattr(jax.config, LIMIT) == before


# ---- What tasks predict -----------------------------------------------------------------------------------


def scores_of(*clips):
    """Scores of one video with these clips [n a]."""
    return jnp.array([clips], jnp.float32)


def test_matching_is_a_probability_of_each_text():
    scores = scores_of([[0.0, 2.0], [0.0, 0.0]], [[0.0, 4.0], [2.0, 0.0]])
    expected = jax.nn.sigmoid(jnp.array([[3.0, -1.0]]))
    for task in (Retrieval(), Pretraining()):
        np.testing.assert_allclose(task.predict(scores, jnp.ones((1, 2), bool), 0), expected, rtol=1e-6)


def test_options_compete_and_one_that_is_no_text_has_nothing():
    scores = scores_of([[1.0], [1.0], [9.0]])
    found = MultipleChoiceQA().predict(scores, jnp.array([[True, True, False]]), 0)
    np.testing.assert_allclose(found, [[0.5, 0.5, 0.0]])


def test_answers_are_those_of_the_vocabulary():
    scores, is_text = scores_of([[1.0, 2.0, 9.0]]), jnp.ones((1, 1), bool)
    found = OpenEndedQA(num_answers=3).predict(scores, is_text, 2)
    np.testing.assert_allclose(found, jax.nn.softmax(jnp.array([[[1.0, 2.0]]])))
    found = ImageQA(num_answers=3).predict(scores, is_text, 2)
    np.testing.assert_allclose(found, jax.nn.sigmoid(jnp.array([[[1.0, 2.0]]])))


def test_a_count_is_neither_rounded_nor_limited():
    found = CountQA(max_count=3).predict(scores_of([[7.25]], [[7.75]]), jnp.ones((1, 1), bool), 0)
    np.testing.assert_allclose(found, [[7.5]])


# ---- Comparison -------------------------------------------------------------------------------------------


def test_matching_agrees_in_its_best_texts_and_in_the_order_of_pairs():
    expected = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.0]], np.float32)
    found = np.array([[0.8, 0.4, 0.6], [0.35, 0.3, 0.9]], np.float32)
    is_text = np.array([[True, True, True], [True, True, False]])
    agreement = compare(Retrieval(), expected, found, is_text)
    assert agreement == {
        "num_videos": 2,
        "num_texts": 5,
        "max_difference": pytest.approx(0.5),
        "mean_difference": pytest.approx((0.1 + 0.1 + 0.5 + 0.15 + 0) / 5, rel=1e-5),
        "same_decisions": 0.5,
        "same_order": 2 / 4,
    }


def test_answers_agree_question_by_question():
    expected = np.array([[[0.9, 0.1], [0.4, 0.6]]], np.float32)
    found = np.array([[[0.8, 0.2], [0.6, 0.4]]], np.float32)
    assert compare(ImageQA(), expected, found, np.array([[True, True]]))["same_decisions"] == 0.5
    agreement = compare(ImageQA(), expected, found, np.array([[True, False]]))
    assert agreement["same_decisions"] == 1
    assert agreement["max_difference"] == pytest.approx(0.1)
    assert "same_order" not in agreement


def test_counts_agree_when_they_are_rounded_and_in_the_range():
    expected = np.array([[2.4, 2.4, 9.0]], np.float32)
    found = np.array([[2.1, 2.6, 11.0]], np.float32)
    agreement = compare(CountQA(max_count=8), expected, found, np.ones((1, 3), bool))
    assert agreement["same_decisions"] == pytest.approx(2 / 3)
