"""Whose weights a file has, found by its names, and every name of every source in its place.

The layouts are written out here as the public files have them, independent of the tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.lib.stride_tricks import sliding_window_view

from clipbert_jax.config import ClipBertConfig, PixelEncoderConfig
from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import PretrainingHeadConfig
from clipbert_jax.models.pixel_encoder import PixelEncoder
from clipbert_jax.weights.flat import parameter_shapes
from clipbert_jax.weights.names.original_names import ALIASES, to_our_name
from clipbert_jax.weights.names.source_names import SourceNames, to_original_names
from tests.goldens import golden

PIXELS = PixelEncoderConfig()
BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}
STATISTICS = ("weight", "bias", "running_mean", "running_var")
Arrays = dict[str, np.ndarray]


def of_shape(*shape: int) -> np.ndarray:
    """Return an array that takes no memory, where only its shape matters."""
    return np.broadcast_to(np.float32(1), shape)


def find(arrays: Mapping[str, np.ndarray], pixels: PixelEncoderConfig = PIXELS) -> SourceNames:
    return to_original_names("weights.bin", arrays, pixels)


def ours(found: SourceNames) -> dict[str, tuple[int, ...]]:
    """Return our names and shapes."""
    shapes = {}
    for name, array in found.arrays.items():
        if name not in ALIASES:
            renamed = to_our_name(name)
            assert renamed is not None, name
            shapes[renamed[0]] = renamed[1].to_ours(array).shape
    return shapes


@pytest.fixture(scope="module")
def needed() -> dict[str, tuple[int, ...]]:
    """Return what a model with the pixel encoder of the original and a small BERT has."""
    config = golden.config("small", "float32")
    head = PretrainingHeadConfig()
    return parameter_shapes(nnx.eval_shape(lambda: ClipBert(config, head, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def resnet(needed) -> dict[str, tuple[int, ...]]:
    parts = ("pixel_encoder/stem/", "pixel_encoder/stages/")
    return {name: shape for name, shape in needed.items() if name.startswith(parts)}


# The public layouts.


def convolutions() -> dict[tuple[int, int, str], tuple[int, ...]]:
    """Return the kernels of a ResNet-50 by stage, block and part."""
    result: dict[tuple[int, int, str], tuple[int, ...]] = {}
    inputs = 64
    for stage, num_blocks in BLOCKS.items():
        width = 64 * 2 ** (stage - 2)
        for block in range(num_blocks):
            if block == 0:
                result[stage, block, "shortcut"] = (4 * width, inputs, 1, 1)
            result[stage, block, "a"] = (width, inputs, 1, 1)
            result[stage, block, "b"] = (width, width, 3, 3)
            result[stage, block, "c"] = (4 * width, width, 1, 1)
            inputs = 4 * width
    return result


def detectron2(prefix: str = "backbone.") -> Arrays:
    """Return a backbone, without the detector around it."""
    layers = {"stem.conv1": (64, 3, 7, 7)}
    parts = {"shortcut": "shortcut", "a": "conv1", "b": "conv2", "c": "conv3"}
    layers |= {f"res{s}.{b}.{parts[p]}": shape for (s, b, p), shape in convolutions().items()}
    arrays = {}
    for layer, shape in layers.items():
        arrays[f"{prefix}{layer}.weight"] = of_shape(*shape)
        arrays |= {f"{prefix}{layer}.norm.{name}": of_shape(shape[0]) for name in STATISTICS}
    return arrays


def detector() -> Arrays:
    """Return what grid-feat-vqa's detector has around its backbone: as the original, without the prefix."""
    entries = golden.state_dict_layout()["common"]
    names = [e["key"].removeprefix("cnn.feature.") for e in entries if not e["used_in_forward"]]
    arrays = {name: of_shape(2) for name in names if name.startswith(("proposal_generator.", "roi_heads."))}
    assert len(arrays) == 20
    return arrays


def caffe2(norm: Mapping[str, str]) -> Arrays:
    """Return MSRA/R-50.pkl, whose norms are called as told."""
    arrays = {"conv1_w": of_shape(64, 3, 7, 7), "conv1_b": of_shape(64)}
    arrays |= {f"res_conv1_bn_{name}": of_shape(64) for name in norm}
    parts = {"shortcut": "branch1", "a": "branch2a", "b": "branch2b", "c": "branch2c"}
    for (stage, block, part), shape in convolutions().items():
        layer = f"res{stage}_{block}_{parts[part]}"
        arrays[f"{layer}_w"] = of_shape(*shape)
        arrays |= {f"{layer}_bn_{name}": of_shape(shape[0]) for name in norm}
    return arrays | {"fc1000_w": of_shape(1000, 2048), "fc1000_b": of_shape(1000)}


OLD_NORM = {"s": "weight", "b": "bias"}
FULL_NORM = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}


def torchvision() -> Arrays:
    """Return ResNet-50 as torchvision's files of today have it."""
    counted = (*STATISTICS, "num_batches_tracked")
    arrays = {"conv1.weight": of_shape(64, 3, 7, 7)}
    arrays |= {f"bn1.{name}": of_shape(64) for name in counted}
    for (stage, block, part), shape in convolutions().items():
        prefix = f"layer{stage - 1}.{block}"
        layer, norm = (
            (f"{prefix}.downsample.0", f"{prefix}.downsample.1")
            if part == "shortcut"
            else (f"{prefix}.conv{'abc'.index(part) + 1}", f"{prefix}.bn{'abc'.index(part) + 1}")
        )
        arrays[f"{layer}.weight"] = of_shape(*shape)
        arrays |= {f"{norm}.{name}": of_shape(shape[0]) for name in counted}
    return arrays | {"fc.weight": of_shape(1000, 2048), "fc.bias": of_shape(1000)}


def bert(width: int, wide: int, layers: int, words: int, positions: int, *, is_old: bool = False) -> Arrays:
    """Return BertForPreTraining of Hugging Face; old files name the weights of norms as Google did."""
    scale, shift = ("gamma", "beta") if is_old else ("weight", "bias")
    arrays: Arrays = {}

    def dense(name: str, *shape: int) -> None:
        arrays[f"{name}.weight"], arrays[f"{name}.bias"] = of_shape(*shape), of_shape(shape[0])

    def norm(name: str) -> None:
        arrays[f"{name}.LayerNorm.{scale}"] = of_shape(width)
        arrays[f"{name}.LayerNorm.{shift}"] = of_shape(width)

    for name, rows in (("word", words), ("position", positions), ("token_type", 2)):
        arrays[f"bert.embeddings.{name}_embeddings.weight"] = of_shape(rows, width)
    norm("bert.embeddings")
    for layer in range(layers):
        prefix = f"bert.encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{prefix}.attention.{part}", width, width)
        norm(f"{prefix}.attention.output")
        dense(f"{prefix}.intermediate.dense", wide, width)
        dense(f"{prefix}.output.dense", width, wide)
        norm(f"{prefix}.output")
    dense("bert.pooler.dense", width, width)
    dense("cls.predictions.transform.dense", width, width)
    norm("cls.predictions.transform")
    arrays["cls.predictions.bias"] = of_shape(words)
    arrays["cls.predictions.decoder.weight"] = arrays["bert.embeddings.word_embeddings.weight"]
    dense("cls.seq_relationship", 2, width)
    return arrays


def small_bert(*, is_old: bool = False) -> Arrays:
    sizes = golden.config().fusion
    return bert(
        sizes.hidden_size,
        sizes.intermediate_size,
        sizes.num_layers,
        sizes.vocab_size,
        sizes.max_text_length,
        is_old=is_old,
    )


# Every weight of a model.


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.bottom_up."])
def test_detectron2_has_the_whole_resnet(prefix: str, resnet) -> None:
    arrays = detectron2(prefix)
    assert len(arrays) == 265
    pyramid = {"backbone.fpn_lateral3.weight": of_shape(1), "backbone.fpn_output3.bias": of_shape(1)}
    found = find({**arrays, **detector(), **pyramid})
    assert (found.source, found.unused, found.notes) == ("detectron2", (), ())
    assert ours(found) == resnet
    assert len(found.ignored) == 22
    assert "part of the detector" in found.ignored["roi_heads.box_head.fc1.weight"]
    name = "cnn.feature.backbone.res4.5.conv2.norm.running_var"
    assert found.origin[name] == f"{prefix}res4.5.conv2.norm.running_var"
    assert all(found.arrays[name] is arrays[found.origin[name]] for name in found.arrays)


def test_names_of_detectron2_are_the_originals_behind_their_prefix() -> None:
    state = golden.state_dict_layout()["common"]
    expected = {entry["key"] for entry in state if ".backbone." in entry["key"]}
    assert set(find(detectron2()).arrays) == expected


@pytest.mark.parametrize("norm", [OLD_NORM, FULL_NORM], ids=["scale and shift", "all four"])
def test_caffe2_has_the_whole_resnet(norm: Mapping[str, str], resnet) -> None:
    found = find(caffe2(norm))
    assert (found.source, found.unused) == ("Caffe2 ResNet", ())
    assert set(found.ignored) == {"conv1_b", "fc1000_w", "fc1000_b"}
    assert ours(found) == resnet
    assert found.arrays.keys() == found.origin.keys()
    assert found.origin["cnn.feature.backbone.res3.2.conv3.weight"] == "res3_2_branch2c_w"
    assert found.origin["cnn.feature.backbone.stem.conv1.norm.bias"] == (
        "res_conv1_bn_b" if norm is OLD_NORM else "res_conv1_bn_beta"
    )


def test_norms_of_caffe2_are_exactly_their_scale_and_shift() -> None:
    found = find(caffe2(OLD_NORM))
    assert found.notes == ("53 norms have only a scale and a shift, and get a mean of 0 and a variance of 1",)
    norm = "cnn.feature.backbone.res2.0.shortcut.norm"
    assert found.origin[f"{norm}.running_var"] == "(not in the file: 1)"
    epsilon = np.float32(1e-5)
    assert (1 / np.sqrt(found.arrays[f"{norm}.running_var"] + epsilon) == 1).all()
    assert not found.arrays[f"{norm}.running_mean"].any()


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_torchvision_has_the_whole_resnet(wrapper: str, resnet) -> None:
    arrays = {f"{wrapper}{name}": array for name, array in torchvision().items()}
    assert len(arrays) == 320
    found = find(arrays)
    assert (found.source, found.unused) == ("torchvision ResNet", ())
    assert ours(found) == resnet
    assert len(found.ignored) == 53 + 2
    assert {f"{wrapper}fc.bias", f"{wrapper}layer1.0.bn1.num_batches_tracked"} < found.ignored.keys()
    origin = found.origin["cnn.feature.backbone.res5.0.shortcut.norm.running_mean"]
    assert origin == f"{wrapper}layer4.0.downsample.1.running_mean"
    assert "3x3 convolution" in found.notes[0]


def test_torchvision_in_names_of_detectron2_is_known_by_its_classifier(resnet) -> None:
    converted = detectron2("") | {"stem.fc.weight": of_shape(1000, 2048), "stem.fc.bias": of_shape(1000)}
    found = find(converted)
    assert (found.source, found.unused, len(found.notes)) == ("torchvision ResNet", (), 3)
    assert ours(found) == resnet
    with pytest.raises(UserError, match="unknown model"):
        find(detectron2(""))  # their pixels are unknown


@pytest.mark.parametrize("is_old", [False, True])
def test_bert_has_every_weight_of_the_text(is_old: bool, needed) -> None:
    arrays = small_bert(is_old=is_old) | {"bert.embeddings.position_ids": np.arange(64)}
    found = find(arrays)
    assert (found.source, found.unused, found.notes) == ("BERT", (), ())
    assert list(found.ignored) == ["bert.embeddings.position_ids"]
    parts = ("text_encoder/", "fusion/", "head/")
    assert ours(found) == {name: shape for name, shape in needed.items() if name.startswith(parts)}
    assert ALIASES.keys() & found.arrays.keys() == {"transformer.cls.predictions.decoder.weight"}


def test_bert_alone_has_no_prefix_and_no_head(needed) -> None:
    arrays = {n.removeprefix("bert."): a for n, a in small_bert().items() if n.startswith("bert.")}
    found = find(arrays)
    assert (found.source, found.unused) == ("BERT", ())
    parts = ("text_encoder/", "fusion/")
    assert ours(found) == {name: shape for name, shape in needed.items() if name.startswith(parts)}


def test_bert_base_has_199_weights_and_a_tied_one() -> None:
    arrays = bert(768, 3072, 12, 30522, 512)
    assert len(arrays) == 207  # with cls.predictions.decoder.weight
    assert len(find(arrays).arrays) == 207


def test_a_tied_array_that_is_left_with_its_other_name_is_found() -> None:
    arrays = small_bert()
    arrays["cls.predictions.decoder.bias"] = arrays.pop("cls.predictions.bias")
    found = find(arrays)
    assert found.origin["transformer.cls.predictions.bias"] == "cls.predictions.decoder.bias"
    assert "transformer.cls.predictions.decoder.bias" not in found.arrays


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_the_original_keeps_its_names(wrapper: str) -> None:
    layout = golden.state_dict_layout()
    entries = layout["common"] + layout["heads"]["pretrain"]
    found = find({f"{wrapper}{e['key']}": of_shape(*e["shape"]) for e in entries})
    assert (found.source, found.unused, found.notes) == ("ClipBERT", (), ())
    assert set(found.arrays) == {e["key"] for e in entries if e["used_in_forward"]} | set(ALIASES)
    assert found.ignored.keys() == {
        f"{wrapper}{e['key']}" for e in entries if not e["used_in_forward"] and e["key"] not in ALIASES
    }
    assert all(found.origin[name] == wrapper + name for name in found.arrays)


# Unknown sources, several sources, and mixtures.


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["weight", "bias"],
        ["vit.encoder.layer.0.attention.output.dense.weight"],
        ["encoder.layer.0.intermediate.dense.weight", "embeddings.cls_token"],  # a vision transformer
    ],
)
def test_unknown_names_are_refused(names: list[str]) -> None:
    with pytest.raises(UserError, match="unknown model") as error:
        find(dict.fromkeys(names, of_shape(3)))
    assert all(name in str(error.value) for name in names)


def test_a_file_that_is_wrapped_in_part_is_not_unwrapped() -> None:
    found = find({"module.conv1.weight": of_shape(3), "bn1.weight": of_shape(3)})
    assert found.unused == ("module.conv1.weight",)


def test_names_of_several_sources_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"several models \(BERT: bert\..*; torchvision ResNet: conv1\.weight"
    ):
        find({**small_bert(), **torchvision()})


def test_one_weight_under_two_names_is_refused() -> None:
    arrays = small_bert() | {"bert.embeddings.LayerNorm.gamma": of_shape(48)}
    with pytest.raises(UserError, match=r"twice, as bert\.embeddings\.LayerNorm\.weight and as .*gamma"):
        find(arrays)


def test_names_that_no_rule_knows_are_reported() -> None:
    extra = {"layer1.0.se.fc1.weight": of_shape(3), "avgpool": of_shape(3)}
    assert find(torchvision() | extra).unused == tuple(extra)
    found = find(small_bert() | {"classifier.weight": of_shape(3)})
    assert found.unused == ("classifier.weight",)


# The stem's pixels.


def stem_features(image: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what the stem in torchvision's names makes of a normalised image [h w 3], in float64."""
    kernel, padded = arrays["conv1.weight"].astype(np.float64), np.pad(image, ((3, 3), (3, 3), (0, 0)))
    windows = sliding_window_view(padded, (7, 7), axis=(0, 1))[::2, ::2]
    x = np.einsum("hwiyx,oiyx->hwo", windows, kernel)
    weight, bias, mean, variance = (arrays[f"bn1.{name}"].astype(np.float64) for name in STATISTICS)
    x = np.maximum((x - mean) / np.sqrt(variance + 1e-5) * weight + bias, 0)
    windows = sliding_window_view(np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), axis=(0, 1))[::2, ::2]
    return windows.max(axis=(-1, -2))


def our_stem_features(image: np.ndarray, found: SourceNames, config: PixelEncoderConfig) -> np.ndarray:
    settings = dataclasses.replace(ClipBertConfig.tiny(), pixel_encoder=config)
    encoder = nnx.eval_shape(lambda: PixelEncoder(settings, rngs=nnx.Rngs(0)))
    targets = {
        "kernel": encoder.stem.kernel,
        "norm/scale": encoder.stem.norm.scale,
        "norm/bias": encoder.stem.norm.bias,
        "norm/mean": encoder.stem.norm.mean,
        "norm/variance": encoder.stem.norm.variance,
    }
    for name, array in found.arrays.items():
        renamed = to_our_name(name)
        assert renamed is not None
        targets[renamed[0].removeprefix("pixel_encoder/stem/")].set_value(
            jnp.asarray(renamed[1].to_ours(array))
        )
    return np.asarray(encoder.run_stem(jnp.asarray(image[None])))[0]


@pytest.fixture
def stem() -> Arrays:
    rng = np.random.default_rng(3)
    arrays = {"conv1.weight": rng.standard_normal((8, 3, 7, 7), np.float32)}
    arrays |= {f"bn1.{name}": rng.uniform(0.5, 2, 8).astype(np.float32) for name in STATISTICS}
    return arrays


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def stem_config(**changes: tuple[float, float, float]) -> PixelEncoderConfig:
    return PixelEncoderConfig(stem_width=8, stage_blocks=(1,), stage_width=8, **changes)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    "config",
    [
        stem_config(),
        stem_config(pixel_std=(58.395, 57.12, 57.375)),
        stem_config(pixel_std=(50.0, 60.0, 70.0)),
    ],
    ids=["base", "tiny", "any divisor"],
)
def test_the_stem_of_torchvision_gives_its_features_of_a_picture(stem, image, config) -> None:
    found = find(stem, config)
    expected = stem_features((image / 255 - MEAN) / STD, stem)
    np.testing.assert_allclose(our_stem_features(image, found, config), expected, rtol=1e-4, atol=1e-4)
    assert any("in the order BGR" in note for note in found.notes)
    assert found.arrays["cnn.feature.backbone.stem.conv1.norm.running_mean"] is stem["bn1.running_mean"]


def test_another_mean_is_right_within_and_said_to_differ_at_the_border(stem, image) -> None:
    config = stem_config(pixel_mean=(100.0, 110.0, 120.0), pixel_std=(50.0, 60.0, 70.0))
    found = find(stem, config)
    assert any("outermost three pixels" in note for note in found.notes)
    expected = stem_features((image / 255 - MEAN) / STD, stem)
    actual = our_stem_features(image, found, config)
    # Two cells of the convolution pad, and so does the pool.
    np.testing.assert_allclose(actual[2:-2, 2:-2], expected[2:-2, 2:-2], rtol=1e-4, atol=1e-4)
    assert np.abs(actual - expected).max() > 0.1


def test_the_stem_of_detectron2_takes_the_pixels_that_its_file_says(stem, image) -> None:
    """X-101 of the model zoo divides; both constants are BGR there, as the kernel is."""
    names = {"conv1.weight": "backbone.stem.conv1.weight"}
    names |= {f"bn1.{name}": f"backbone.stem.conv1.norm.{name}" for name in STATISTICS}
    arrays = {theirs: stem[name] for name, theirs in names.items()}
    arrays["backbone.stem.conv1.weight"] = stem["conv1.weight"][:, ::-1]
    as_is, config = find(arrays), stem_config()
    assert as_is.arrays["cnn.feature.backbone.stem.conv1.weight"] is arrays["backbone.stem.conv1.weight"]
    expected = stem_features(image - np.array(config.pixel_mean), stem)
    np.testing.assert_allclose(our_stem_features(image, as_is, config), expected, rtol=1e-4, atol=1e-2)

    arrays["pixel_mean"] = np.array([103.53, 116.28, 123.675], np.float32).reshape(3, 1, 1)
    arrays["pixel_std"] = np.array([57.375, 57.12, 58.395], np.float32).reshape(3, 1, 1)
    found = find(arrays, config)
    expected = stem_features((image / 255 - MEAN) / STD, stem)
    np.testing.assert_allclose(our_stem_features(image, found, config), expected, rtol=1e-4, atol=1e-4)
    assert found.ignored.keys() == {"pixel_mean", "pixel_std"}
    assert len(found.notes) == 1
    same = find(arrays, stem_config(pixel_std=(58.395, 57.12, 57.375)))
    assert same.notes == ()


def test_a_stem_in_half_precision_is_folded_in_full(stem) -> None:
    halves = {name: array.astype(np.float16) for name, array in stem.items()}
    found = find(halves)
    assert found.arrays["cnn.feature.backbone.stem.conv1.weight"].dtype == np.float32


def test_a_stem_of_another_shape_is_left_to_the_check_of_shapes(stem) -> None:
    stem["conv1.weight"] = of_shape(8, 1, 7, 7)
    assert find(stem).arrays["cnn.feature.backbone.stem.conv1.weight"].shape == (8, 1, 7, 7)
