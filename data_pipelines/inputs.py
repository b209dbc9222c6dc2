"""Turns a video file and texts into the inputs of a loaded model, in notebooks and short scripts.

`inputs` is `clipbert_jax.load(...).inputs`, which describes the model's clips and texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Int, UInt8

from clipbert_jax.pretrained.load import Inputs
from data_pipelines.clips import sample_clips
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.examine import examine_video
from data_pipelines.tokenizer import Tokenizer


def read_clips(video: str | Path, inputs: Inputs, *, num_clips: int = 8) -> UInt8[np.ndarray, "k t s s 3"]:
    """Return clips of a video file, spread over all of it, in the model's size.

    Args:
      video: the file; images and GIFs count as videos.
      inputs: the model's inputs.
      num_clips: number of clips; more of them see more of a long video.

    Raises:
      UserError: the file cannot be decoded.
    """
    config = DataConfig(
        data_dir="",
        num_frames=inputs.num_frames,
        fps=inputs.fps,
        size=inputs.size,
        sampling_rule=cast("Any", inputs.sampling_rule),
    )
    return sample_clips(examine_video(Path(video)), config, num_clips=num_clips).frames


def encode_texts(
    texts: Sequence[str], inputs: Inputs
) -> tuple[Int[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
    """Return the token ids of texts, and a mask that is True at real tokens."""
    tokenizer = Tokenizer(inputs.tokens, inputs.letter_rules)
    return tokenizer.encode(list(texts), inputs.max_text_length)
