"""The arrays that the page of `clipbert probe` shows; `probe_video.py` fills them from a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClipView:
    """A clip, and what it says."""

    seconds: Float[np.ndarray, " t"]
    """When each frame is shown, after the first frame of the video."""
    frames: Sequence[UInt8[np.ndarray, "h w 3"]]
    """As shown to the model but larger, and without padding."""
    score: float
    """What the clip alone says, in logits (or in the number that is counted)."""
    probability: float | None
    """The same as a probability; None where a number is counted."""
    change_without: float
    """What the pooled score changes by when this clip is left out; NaN for the only one."""
    frame_changes: Float[np.ndarray, " t"] | None
    """What it changes by when a frame of the clip is left out; None for clips of one frame."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WordView:
    """A word of the text, made of one or more tokens."""

    text: str
    tokens: tuple[int, ...]
    """Places among the tokens of the maps; [CLS] is 0."""
    change_without: float | None
    """What the pooled score changes by when the word is hidden; None for [CLS] and [SEP]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaithfulnessView:
    """How faithful a map is, measured by hiding what it points to."""

    name: str
    """Of the map, such as "attention, layer 3"."""
    rank_correlation: float
    """Spearman's, of the map and of what the score loses without each cell, within clips."""
    low: float
    high: float
    """Of 90 % of moved maps: correlations in between may be chance."""
    is_above_chance: bool
    can_tell: bool
    """Whether the picture has cells enough for any map to be above chance."""
    deletion: float
    """What the score loses without the tenth of the cells that the map points to."""
    random_deletion: float
    """What it loses without those that moved maps point to, on average."""
    high_deletion: float
    """What 95 % of these stay below."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ProbePage:
    """All that the page shows. Letters: `k` clips, `l` tokens of the text, `gh gw` cells of the grid."""

    video_name: str
    duration: float
    """Seconds."""
    text: str
    question: str
    """What the score says, such as `How sure the model is that the text matches the video`."""
    score: float
    """Pooled over clips, in logits or the number that is counted."""
    probability: float | None
    consensus: str
    clips: Sequence[ClipView]
    words: Sequence[WordView]
    """With [CLS] first and [SEP] last."""
    width_share: float
    height_share: float
    """Of the padded square that the grid covers, what the picture takes (at the left and the top)."""
    text_to_grid: Float[np.ndarray, "layers heads k l gh gw"]
    """Attention of each token to each cell; what is missing to 1 goes to the text."""
    grid_to_text: Float[np.ndarray, "layers k l gh gw"]
    """Attention of each cell to each token, mean over heads."""
    gradient_weighted: Float[np.ndarray, "layers k l gh gw"]
    """Attention times the gradient of the score, its positive part, mean over heads."""
    rollout: Float[np.ndarray, "k l gh gw"]
    """Attention through all layers, with what passes each layer by."""
    cell_changes: Float[np.ndarray, "k gh gw"]
    """What the pooled score changes by when the cell's token is hidden from all others."""
    head_changes: Float[np.ndarray, "layers heads"]
    """What it changes by when a head is switched off."""
    faithfulness: Sequence[FaithfulnessView]
    notes: Sequence[str]
    """What a reader must know, such as a text that was cut."""
    facts: Mapping[str, str]
    """Model, step, versions, command: shown at the end."""
