"""Parameter names of the original ClipBERT and of this package, both ways.

A checkpoint of the original is a `name -> array` dict with 491 names common to all tasks, and those of a
head. `import_weights` turns it into ours by `to_our_name`; `clipbert convert --to torch` writes it by
`to_original`. Exactly one rule of `TABLE` claims each name, so nothing is dropped in silence.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Shaped

from clipbert_jax.weights.flat import WeightsMismatchError
from clipbert_jax.weights.formats.refusals import listed

Flat = dict[str, Shaped[np.ndarray, "*dims"]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of the table; `{word}` stands for the same text in both names."""

    original: str
    ours: str
    layout: Literal["same", "dense", "convolution"] = "same"
    """Change of axes to our layout: `dense` from (out, in) to (in, out), `convolution` from OIHW to HWIO."""

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Return the original's array in our layout."""
        axes = {"same": None, "dense": (1, 0), "convolution": (2, 3, 1, 0)}[self.layout]
        return array if axes is None or array.ndim != len(axes) else array.transpose(axes)

    def to_original(self, array: np.ndarray) -> np.ndarray:
        """Return our array in the original's layout."""
        axes = {"same": None, "dense": (1, 0), "convolution": (3, 2, 0, 1)}[self.layout]
        return array if axes is None else array.transpose(axes)


_Layout = Literal["same", "dense", "convolution"]
_NORM: tuple[tuple[str, str, _Layout], ...] = (("weight", "scale", "same"), ("bias", "bias", "same"))
_PARTS: Mapping[str, tuple[tuple[str, str, _Layout], ...]] = {
    "dense": (("weight", "kernel", "dense"), ("bias", "bias", "same")),
    "convolution": (("weight", "kernel", "convolution"),),
    "embedding": (("weight", "embedding", "same"),),
    "layer norm": _NORM,
    "batch norm": (*_NORM, ("running_mean", "mean", "same"), ("running_var", "variance", "same")),
}
"""Kind of layer -> (original name, our name, layout) of its arrays."""

_BLOCK, _OUR_BLOCK = (
    "cnn.feature.backbone.res{stage}.{block}.{layer}",
    "pixel_encoder/stages/res{stage}/{block}/{layer}",
)
_TEXT, _VISUAL = "transformer.bert.embeddings", "transformer.bert.visual_embeddings"
_LAYER, _OUR_LAYER = "transformer.bert.encoder.layer.{layer}", "fusion/layers/{layer}"
_HEAD = "transformer.cls.predictions.transform"

_LAYERS = (
    ("convolution", "cnn.feature.backbone.stem.conv1", "pixel_encoder/stem"),
    ("batch norm", "cnn.feature.backbone.stem.conv1.norm", "pixel_encoder/stem/norm"),
    ("convolution", _BLOCK, _OUR_BLOCK),
    ("batch norm", f"{_BLOCK}.norm", f"{_OUR_BLOCK}/norm"),
    ("convolution", "cnn.grid_encoder.0", "pixel_encoder/grid_encoder"),
    ("embedding", f"{_TEXT}.word_embeddings", "text_encoder/word_embeddings"),
    ("embedding", f"{_TEXT}.position_embeddings", "text_encoder/position_embeddings"),
    ("embedding", f"{_TEXT}.token_type_embeddings", "text_encoder/token_type_embeddings"),
    ("layer norm", f"{_TEXT}.LayerNorm", "text_encoder/layer_norm"),
    ("embedding", f"{_VISUAL}.row_position_embeddings", "visual_embedding/row_embeddings"),
    ("embedding", f"{_VISUAL}.col_position_embeddings", "visual_embedding/column_embeddings"),
    ("embedding", f"{_VISUAL}.token_type_embeddings", "visual_embedding/token_type_embeddings"),
    ("layer norm", f"{_VISUAL}.LayerNorm", "visual_embedding/layer_norm"),
    *(("dense", f"{_LAYER}.attention.self.{x}", f"{_OUR_LAYER}/{x}") for x in ("query", "key", "value")),
    ("dense", f"{_LAYER}.attention.output.dense", f"{_OUR_LAYER}/attention_output"),
    ("layer norm", f"{_LAYER}.attention.output.LayerNorm", f"{_OUR_LAYER}/attention_layer_norm"),
    ("dense", f"{_LAYER}.intermediate.dense", f"{_OUR_LAYER}/intermediate"),
    ("dense", f"{_LAYER}.output.dense", f"{_OUR_LAYER}/output"),
    ("layer norm", f"{_LAYER}.output.LayerNorm", f"{_OUR_LAYER}/output_layer_norm"),
    ("dense", "transformer.bert.pooler.dense", "fusion/pooler"),
    ("dense", f"{_HEAD}.dense", "head/transform"),
    ("layer norm", f"{_HEAD}.LayerNorm", "head/transform_layer_norm"),
    ("dense", "transformer.cls.seq_relationship", "head/matching"),
    ("dense", "transformer.classifier.0", "head/hidden"),
    ("dense", "transformer.classifier.2", "head/output"),
    ("dense", "transformer.regressor.0", "head/regression_hidden"),
    ("batch norm", "transformer.regressor.2", "head/regression_norm"),
    ("dense", "transformer.regressor.4", "head/regression_output"),
)
"""(kind, original name, our name) of every layer."""

TABLE: tuple[Rule, ...] = (
    *(
        Rule(f"{original}.{part}", f"{ours}/{our_part}", layout)
        for kind, original, ours in _LAYERS
        for part, our_part, layout in _PARTS[kind]
    ),
    Rule("transformer.cls.predictions.bias", "head/decoder_bias"),
)

ALIASES: Mapping[str, str] = {
    "transformer.cls.predictions.decoder.weight": "transformer.bert.embeddings.word_embeddings.weight",
    "transformer.cls.predictions.decoder.bias": "transformer.cls.predictions.bias",
}
"""Second names of arrays in the original -> first names; a file may omit them, but not contradict them."""

IGNORED: tuple[str, ...] = (
    # The detector that the grid features were pretrained with: no output depends on it.
    r"cnn\.feature\.(proposal_generator|roi_heads)\..*",
    # A table that the original makes and never reads.
    r"transformer\.bert\.visual_embeddings\.position_embeddings\.weight",
    # Constants and counters that some versions save.
    r"(cnn\.feature\.)?pixel_(mean|std)",
    r".*\.(num_batches_tracked|position_ids)",
)
"""Patterns of original names without a counterpart here."""

IGNORED_BECAUSE = "no output depends on it"


_DETECTOR = "cnn.feature"
_DETECTOR_SHAPES: Mapping[str, tuple[int, ...]] = {
    "proposal_generator.anchor_generator.cell_anchors.0": (15, 4),
    "proposal_generator.rpn_head.conv.weight": (2048, 2048, 3, 3),
    "proposal_generator.rpn_head.conv.bias": (2048,),
    "proposal_generator.rpn_head.objectness_logits.weight": (15, 2048, 1, 1),
    "proposal_generator.rpn_head.objectness_logits.bias": (15,),
    "proposal_generator.rpn_head.anchor_deltas.weight": (60, 2048, 1, 1),
    "proposal_generator.rpn_head.anchor_deltas.bias": (60,),
    "roi_heads.box_head.fc1.weight": (1024, 2048),
    "roi_heads.box_head.fc1.bias": (1024,),
    "roi_heads.box_head.fc2.weight": (1024, 1024),
    "roi_heads.box_head.fc2.bias": (1024,),
    "roi_heads.box_predictor.cls_score.weight": (1601, 1024),
    "roi_heads.box_predictor.cls_score.bias": (1601,),
    "roi_heads.box_predictor.bbox_pred.weight": (6400, 1024),
    "roi_heads.box_predictor.bbox_pred.bias": (6400,),
    "roi_heads.attribute_predictor.obj_embed.weight": (1601, 256),
    "roi_heads.attribute_predictor.fc.0.weight": (512, 1280),
    "roi_heads.attribute_predictor.fc.0.bias": (512,),
    "roi_heads.attribute_predictor.attr_score.weight": (400, 512),
    "roi_heads.attribute_predictor.attr_score.bias": (400,),
}
"""Parts of grid-feat-vqa's R-50 that the original creates and never runs."""


def unread_by_original(state: Mapping[str, ArrayLike]) -> Flat:
    """Return zeros for the parts that the original's code has and never reads, so that it finds every key.

    `state` is the result of `to_original`.
    """
    table = np.shape(state["transformer.bert.embeddings.position_embeddings.weight"])
    shapes = {"transformer.bert.visual_embeddings.position_embeddings.weight": table}
    if np.shape(state.get("cnn.feature.backbone.res5.0.shortcut.weight", ())) == (2048, 1024, 1, 1):
        shapes |= {f"{_DETECTOR}.{name}": shape for name, shape in _DETECTOR_SHAPES.items()}
    unread: Flat = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    if "transformer.regressor.2.running_mean" in state:
        unread["transformer.regressor.2.num_batches_tracked"] = np.zeros((), np.int64)
    return unread


def to_our_name(name: str) -> tuple[str, Rule] | None:
    """Return our name and the rule for an original name; None if no rule claims it."""
    return _rename(name, _TO_OURS)


def to_original_name(name: str) -> tuple[str, Rule] | None:
    """Return the original's name and the rule for our name; None if no rule claims it."""
    return _rename(name, _TO_ORIGINAL)


def to_original(flat: Mapping[str, ArrayLike]) -> Flat:
    """Turn our flat weights into an original checkpoint, without the names that `IGNORED` covers.

    Raises:
      WeightsMismatchError: names that a ClipBERT does not have, all of them.
    """
    state, unclaimed = {}, []
    for name, array in flat.items():
        if (renamed := to_original_name(name)) is None:
            unclaimed.append(name)
        else:
            state[renamed[0]] = renamed[1].to_original(np.asarray(array))
    if unclaimed:
        raise WeightsMismatchError(f"No original name belongs to {listed(unclaimed)}.")
    if "transformer.cls.predictions.bias" in state:
        state |= {alias: state[source] for alias, source in ALIASES.items()}
    return state


def _rename(name: str, patterns: Sequence[tuple[re.Pattern[str], str, Rule]]) -> tuple[str, Rule] | None:
    for pattern, target, rule in patterns:
        if (match := pattern.fullmatch(name)) is not None:
            return target.format_map(match.groupdict()), rule
    return None


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\w+)", re.escape(template)))


# Compiled once, because files may have tens of thousands of names.
_TO_OURS = tuple((_pattern(rule.original), rule.ours, rule) for rule in TABLE)
_TO_ORIGINAL = tuple((_pattern(rule.ours), rule.original, rule) for rule in TABLE)
