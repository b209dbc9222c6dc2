"""The strict table between the original's names and ours."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import (
    ClassifierHeadConfig,
    PretrainingHeadConfig,
    RegressionHeadConfig,
    make_head,
)
from clipbert_jax.weights.flat import (
    WeightsMismatchError,
    flat_parameters,
    load_flat_parameters,
    parameter_shapes,
)
from clipbert_jax.weights.names.original_names import (
    ALIASES,
    TABLE,
    to_original,
    to_original_name,
    to_our_name,
    unread_by_original,
)
from tests.clipbert_jax.weights.names.original_weights import from_original, is_ignored
from tests.goldens import golden

HEADS = {
    "pretrain": (PretrainingHeadConfig(), 500),
    "seqcls": (ClassifierHeadConfig(num_outputs=3129), 495),
    "regression": (RegressionHeadConfig(), 500),
}


@pytest.fixture(scope="module")
def tiny():
    return ClipBert(ClipBertConfig.tiny(), PretrainingHeadConfig(), rngs=nnx.Rngs(0))


@pytest.fixture
def original(tiny):
    return to_original(flat_parameters(tiny))


@pytest.fixture(scope="module")
def with_head():
    """Return a function: head -> the released model of shapes alone with that head. Most is made once."""
    config = ClipBertConfig.base()
    model = nnx.eval_shape(lambda: ClipBert(config, ClassifierHeadConfig(num_outputs=2), rngs=nnx.Rngs(0)))

    def replace(head):
        model.head = nnx.eval_shape(lambda: make_head(head, config, rngs=nnx.Rngs(0)))
        return model

    return replace


@pytest.mark.parametrize("head", HEADS)
def test_every_key_of_a_released_checkpoint_has_its_place(head, with_head):
    layout = golden.state_dict_layout()
    entries = layout["common"] + layout["heads"][head]
    config, num_keys = HEADS[head]
    assert len(layout["common"]) == 491
    assert len(entries) == num_keys
    # Arrays that take no memory: only shapes matter.
    state = {e["key"]: np.broadcast_to(np.float32(0), e["shape"]) for e in entries}
    model = with_head(config)
    flat = from_original(state)
    assert {name: array.shape for name, array in flat.items()} == parameter_shapes(model)
    back = to_original(flat)
    used = {e["key"]: tuple(e["shape"]) for e in entries if e["used_in_forward"]}
    assert {name: array.shape for name, array in back.items()} == used


def test_trainable_parameters_are_those_of_the_original(with_head):
    layout = golden.state_dict_layout()
    entries = layout["common"] + layout["heads"]["retrieval"]
    _, trainable, _ = nnx.split(with_head(ClassifierHeadConfig(num_outputs=2)), nnx.Param, ...)
    names = {to_original_name("/".join(map(str, path)))[0] for path, _ in nnx.to_flat_state(trainable)}
    assert names == {e["key"] for e in entries if e["trainable"] and e["used_in_forward"]}


def test_only_detector_and_unread_keys_are_ignored():
    keys = [entry["key"] for entry in golden.state_dict_layout()["common"]]
    ignored = [key for key in keys if is_ignored(key)]
    assert len(ignored) == 21
    assert all(to_our_name(key) is None for key in ignored)
    assert len([key for key in ignored if "proposal_generator" in key or "roi_heads" in key]) == 20


def test_every_line_of_the_table_is_used_once():
    layout = golden.state_dict_layout()
    keys = {e["key"] for part in (layout["common"], *layout["heads"].values()) for e in part}
    claimed = {key: to_our_name(key) for key in keys if key not in ALIASES and not is_ignored(key)}
    assert {rule for _, rule in claimed.values()} == set(TABLE)
    for key, (ours, rule) in claimed.items():
        assert to_original_name(ours) == (key, rule)


def test_round_trip_is_exact_and_reaches_the_model(tiny, original):
    other = ClipBert(ClipBertConfig.tiny(), PretrainingHeadConfig(), rngs=nnx.Rngs(1))
    load_flat_parameters(other, from_original(original))
    for name, array in flat_parameters(tiny).items():
        np.testing.assert_array_equal(flat_parameters(other)[name], array, err_msg=name)


def test_layouts_are_those_of_pytorch(tiny, original):
    flat = flat_parameters(tiny)
    np.testing.assert_array_equal(
        original["cnn.grid_encoder.0.weight"][5, 7, 0, 2],
        flat["pixel_encoder/grid_encoder/kernel"][0, 2, 7, 5],
    )
    np.testing.assert_array_equal(
        original["transformer.bert.encoder.layer.1.intermediate.dense.weight"][200, 3],
        flat["fusion/layers/1/intermediate/kernel"][3, 200],
    )


def test_tolerated_keys_and_omitted_aliases_are_accepted(tiny, original):
    for alias in ALIASES:
        del original[alias]
    original |= {
        "pixel_mean": np.zeros(3),
        "cnn.feature.pixel_std": np.ones(3),
        "transformer.bert.embeddings.position_ids": np.arange(64),
        "cnn.feature.backbone.stem.conv1.norm.num_batches_tracked": np.zeros(()),
    }
    assert from_original(original).keys() == parameter_shapes(tiny).keys()


def test_flat_weights_that_do_not_fit_are_refused_and_load_nothing(tiny):
    flat = {name: np.asarray(array) + 1 for name, array in flat_parameters(tiny).items()}
    before = np.asarray(flat_parameters(tiny)["fusion/pooler/bias"])
    flat["extra"] = flat.pop("head/matching/bias")
    flat["fusion/pooler/kernel"] = flat["fusion/pooler/kernel"][:5]
    with pytest.raises(
        WeightsMismatchError, match=r"(?s)3 problems.*head/matching/bias.*extra.*pooler/kernel"
    ):
        load_flat_parameters(tiny, flat)
    np.testing.assert_array_equal(flat_parameters(tiny)["fusion/pooler/bias"], before)


def test_names_of_no_clipbert_are_refused():
    with pytest.raises(WeightsMismatchError, match="head/other, nothing/at/all"):
        to_original(
            {"head/other": np.zeros(1), "fusion/pooler/bias": np.zeros(1), "nothing/at/all": np.zeros(1)}
        )


@pytest.mark.parametrize("head", ["pretrain", "retrieval", "regression"])
def test_with_what_is_never_read_every_key_of_the_original_is_there(head):
    layout = golden.state_dict_layout()
    shapes = {entry["key"]: tuple(entry["shape"]) for entry in (*layout["common"], *layout["heads"][head])}
    read = {
        name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items() if not is_ignored(name)
    }
    unread = unread_by_original(read)
    assert {name: array.shape for name, array in unread.items()} == {
        name: shape for name, shape in shapes.items() if name not in read
    }
