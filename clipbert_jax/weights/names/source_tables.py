"""Tables from the names in files of other models to those of the original ClipBERT, for `source_names`.

Each source has patterns for the names that it has, and for those that are left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping

from clipbert_jax.weights.names.original_names import ALIASES, IGNORED, IGNORED_BECAUSE, to_our_name
from clipbert_jax.weights.names.stem_folding import CAFFE_PIXELS, TORCHVISION_PIXELS, Pixels

RESNET = "cnn.feature.backbone"

_NORM = r"(weight|bias|running_mean|running_var)"
_COUNTERS = {r".*\.num_batches_tracked": "a counter that only training of batch norms reads"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WeightSource:
    """Names and pixels of one kind of weights."""

    name: str
    original: Callable[[str], str | None]
    """Function from a name in the file to the original ClipBERT's name, or None if it has no such weight."""
    ignored: Mapping[str, str]
    """Patterns of names that are left out -> the reason."""
    pixels: Pixels | None = None
    """Pixels that the stem's kernel was trained on; None if the stem needs no change."""
    needs: str = ".*"
    """Pattern of a name that must be there; without it, the names are those of another source."""
    notes: tuple[str, ...] = ()
    """Sentences that a user of these weights should know."""

    def has(self, names: Collection[str]) -> bool:
        """Return whether at least one of the names is the source's."""
        return any(re.fullmatch(self.needs, name) for name in names) and any(map(self.original, names))

    def reason_to_ignore(self, name: str) -> str | None:
        """Return why a name is left out; None if no rule covers it."""
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, name)), None)


def _by_table(table: Mapping[str, str]) -> Callable[[str], str | None]:
    """Return a renaming function for a table of patterns of whole names -> templates of `re.Match.expand`."""

    def original(name: str) -> str | None:
        for pattern, replacement in table.items():
            if (match := re.fullmatch(pattern, name)) is not None:
                return match.expand(replacement)
        return None

    return original


def _clipbert_name(name: str) -> str | None:
    return name if name in ALIASES or to_our_name(name) is not None else None


CLIPBERT = WeightSource(
    name="ClipBERT", original=_clipbert_name, ignored=dict.fromkeys(IGNORED, IGNORED_BECAUSE)
)


# Hugging Face, and Google's checkpoints converted by it, which call a norm's weight gamma and its bias beta.

_NORMS_OF_BERT = r"((?:embeddings|encoder\.layer\.\d+\.(?:attention\.)?output)\.LayerNorm)"
_DENSE_OF_BERT = (
    r"(encoder\.layer\.\d+\.(?:attention\.self\.(?:query|key|value)|attention\.output\.dense"
    r"|intermediate\.dense|output\.dense)|pooler\.dense)"
)
_NORM_OF_BERT_HEAD = r"cls\.(predictions\.transform\.LayerNorm)"

BERT = WeightSource(
    name="BERT",
    original=_by_table(
        {
            r"(?:bert\.)?embeddings\.((?:word|position|token_type)_embeddings\.weight)": (
                r"transformer.bert.embeddings.\1"
            ),
            rf"(?:bert\.)?{_NORMS_OF_BERT}\.(?:weight|gamma)": r"transformer.bert.\1.weight",
            rf"(?:bert\.)?{_NORMS_OF_BERT}\.(?:bias|beta)": r"transformer.bert.\1.bias",
            rf"(?:bert\.)?{_DENSE_OF_BERT}\.(weight|bias)": r"transformer.bert.\1.\2",
            rf"{_NORM_OF_BERT_HEAD}\.(?:weight|gamma)": r"transformer.cls.\1.weight",
            rf"{_NORM_OF_BERT_HEAD}\.(?:bias|beta)": r"transformer.cls.\1.bias",
            r"cls\.(predictions\.(?:transform\.dense\.(?:weight|bias)|bias|decoder\.(?:weight|bias)))": (
                r"transformer.cls.\1"
            ),
            r"cls\.seq_relationship\.(weight|bias)": r"transformer.cls.seq_relationship.\1",
        }
    ),
    ignored={r"(?:bert\.)?embeddings\.position_ids": "a constant: 0, 1, 2, ..."},
    needs=r"(?:bert\.)?embeddings\.word_embeddings\.weight",  # vision transformers have layers of these names
)


# detectron2 has the original's names behind a prefix, as the original's pixel encoder is one of its
# detectors.

_LAYER = r"(stem\.conv1|res\d\.\d+\.(?:shortcut|conv[123]))"
_NOT_IN_CLIPBERT = "a part of the detector: ClipBERT uses the ResNet only"

DETECTRON2 = WeightSource(
    name="detectron2",
    original=_by_table(
        # The ResNet of detectors with a feature pyramid, such as those of the model zoo, is their bottom_up.
        {
            rf"backbone\.(?:bottom_up\.)?{_LAYER}\.weight": rf"{RESNET}.\1.weight",
            rf"backbone\.(?:bottom_up\.)?{_LAYER}\.norm\.{_NORM}": rf"{RESNET}.\1.norm.\2",
        }
    ),
    ignored={
        r"(?:proposal_generator|roi_heads)\..*": _NOT_IN_CLIPBERT,
        r"backbone\.(?:fpn_(?:lateral|output)\d|top_block)\..*": _NOT_IN_CLIPBERT,
        r"pixel_(?:mean|std)": "a constant; the stem's kernel is made to fit the model's own",
        **_COUNTERS,
    },
    pixels=CAFFE_PIXELS,
)


# Detectron and its ImageNet weights, of which detectron2 still uses MSRA/R-50.pkl. Norms have a scale and a
# shift alone, or all four arrays in newer files; `riv` is a variance in spite of its name.


def _caffe2_table() -> Iterator[tuple[str, str]]:
    layers = {
        r"res(\d)_(\d+)_branch1": rf"{RESNET}.res\1.\2.shortcut",
        r"res(\d)_(\d+)_branch2a": rf"{RESNET}.res\1.\2.conv1",
        r"res(\d)_(\d+)_branch2b": rf"{RESNET}.res\1.\2.conv2",
        r"res(\d)_(\d+)_branch2c": rf"{RESNET}.res\1.\2.conv3",
    }
    for layer, original in {"conv1": f"{RESNET}.stem.conv1", **layers}.items():
        norm = "(?:res_)?conv1_bn" if layer == "conv1" else f"{layer}_bn"
        yield f"{layer}_w", f"{original}.weight"
        yield f"{norm}_(?:s|gamma)", f"{original}.norm.weight"
        yield f"{norm}_(?:b|beta)", f"{original}.norm.bias"
        yield f"{norm}_(?:rm|running_mean)", f"{original}.norm.running_mean"
        yield f"{norm}_(?:riv|running_var)", f"{original}.norm.running_var"


CAFFE2 = WeightSource(
    name="Caffe2 ResNet",
    original=_by_table(dict(_caffe2_table())),
    ignored={
        r"(?:fc1000|pred)_[wb]": "the classifier of ImageNet",
        r"conv1_b": "about 0, and detectron2's stem also lacks it",
        r".*_momentum": "the optimizer's state",
    },
    pixels=CAFFE_PIXELS,
)


# torchvision counts the stages from 1, where detectron2 counts the stem as the first.


def _torchvision_table() -> Iterator[tuple[str, str]]:
    yield r"conv1\.weight", f"{RESNET}.stem.conv1.weight"
    yield rf"bn1\.{_NORM}", rf"{RESNET}.stem.conv1.norm.\1"
    for layer in (1, 2, 3, 4):
        block, original = rf"layer{layer}\.(\d+)", rf"{RESNET}.res{layer + 1}.\1"
        yield rf"{block}\.conv([123])\.weight", rf"{original}.conv\2.weight"
        yield rf"{block}\.bn([123])\.{_NORM}", rf"{original}.conv\2.norm.\3"
        yield rf"{block}\.downsample\.0\.weight", rf"{original}.shortcut.weight"
        yield rf"{block}\.downsample\.1\.{_NORM}", rf"{original}.shortcut.norm.\2"


_STRIDE = (
    "torchvision's ResNet halves the resolution in the 3x3 convolution of a block, this one in the 1x1 "
    "convolution before it, as the original does: the weights load, but features from res3 on differ from "
    "torchvision's, and training must adapt them"
)
_PADDING = (
    "torchvision's ResNet was trained on pictures that fill the frame, and has never seen the black padding "
    "of frames here"
)

TORCHVISION = WeightSource(
    name="torchvision ResNet",
    original=_by_table(dict(_torchvision_table())),
    ignored={r"fc\.(?:weight|bias)": "the classifier of ImageNet", **_COUNTERS},
    pixels=TORCHVISION_PIXELS,
    notes=(_STRIDE, _PADDING),
)

# Results of detectron2's convert-torchvision-to-d2.py, such as torchvision/R-50.pkl of its model zoo. Only
# the classifier, which detectors lack, shows that the pixels are torchvision's.
TORCHVISION_FOR_DETECTRON2 = dataclasses.replace(
    TORCHVISION,
    original=_by_table(
        {
            rf"{_LAYER}\.weight": rf"{RESNET}.\1.weight",
            rf"{_LAYER}\.norm\.{_NORM}": rf"{RESNET}.\1.norm.\2",
        }
    ),
    ignored={r"stem\.fc\.(?:weight|bias)": "the classifier of ImageNet", **_COUNTERS},
    needs=r"stem\.fc\.weight",
)

SOURCES = (CLIPBERT, BERT, DETECTRON2, CAFFE2, TORCHVISION, TORCHVISION_FOR_DETECTRON2)
