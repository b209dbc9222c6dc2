"""The arrays that the page of `clipbert probe` shows; `probe_video.py` fills them from a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from clipbert_jax.probing.faithfulness import MapFaithfulness


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClipView:
    """A clip and its score."""

    seconds: Float[np.ndarray, " t"]
    """Time of each frame after the first frame of the video."""
    frames: Sequence[UInt8[np.ndarray, "h w 3"]]
    """The frames that the model sees, but larger and without padding."""
    score: float
    """Score of the clip alone, in logits (or the number that is counted)."""
    probability: float | None
    """The score as a probability; None where a number is counted."""
    change_without: float
    """Change of the pooled score without this clip; NaN for the only clip."""
    frame_changes: Float[np.ndarray, " t"] | None
    """Change of the pooled score without each frame; None for clips of one frame."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WordView:
    """A word of the text, made of one or more tokens."""

    text: str
    tokens: tuple[int, ...]
    """Indices among the tokens of the maps; [CLS] is 0."""
    change_without: float | None
    """Change of the pooled score when the word is hidden; None for [CLS] and [SEP]."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ProbePage:
    """The content of the page. Letters: `k` clips, `l` tokens of the text, `gh gw` cells of the grid."""

    video_name: str
    duration: float
    """Seconds."""
    text: str
    question: str
    """Meaning of the score, such as `How sure the model is that the text matches the video`."""
    score: float
    """Score pooled over clips, in logits or the number that is counted."""
    probability: float | None
    consensus: str
    clips: Sequence[ClipView]
    words: Sequence[WordView]
    """Words of the text, with [CLS] first and [SEP] last."""
    width_share: float
    height_share: float
    """Share of the padded square (which the grid covers) that the picture takes, at the left and top."""
    text_to_grid: Float[np.ndarray, "layers heads k l gh gw"]
    """Attention of each token to each cell; the rest up to 1 goes to the text."""
    grid_to_text: Float[np.ndarray, "layers k l gh gw"]
    """Attention of each cell to each token, mean over heads."""
    gradient_weighted: Float[np.ndarray, "layers k l gh gw"]
    """Positive part of attention times the gradient of the score, mean over heads."""
    rollout: Float[np.ndarray, "k l gh gw"]
    """Attention through all layers, including the residual connections."""
    cell_changes: Float[np.ndarray, "k gh gw"]
    """Change of the pooled score when the token of the cell is hidden from all others."""
    head_changes: Float[np.ndarray, "layers heads"]
    """Change of the pooled score when a head is switched off."""
    faithfulness: Mapping[str, MapFaithfulness]
    """Faithfulness of each map, such as "attention, layer 3"."""
    notes: Sequence[str]
    """Remarks for the reader, such as a text that was cut."""
    facts: Mapping[str, str]
    """Model, step, versions and command, for the end of the page."""
