"""Ablation: the change of the probe score without each word, cell, frame or head.

The part is hidden from all other tokens. The model was never trained on such holes: a change tells what this
model does without the part, not what a model would have learned without it. The pixel encoder sees further
than a cell, so the neighbours of a hidden cell still hold some of it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.probing.evidence import changes_with_replaced_clips
from clipbert_jax.probing.model_probe import ModelProbe


@dataclasses.dataclass(frozen=True, eq=False)
class ProbedExample:
    """A video and a text as the model reads them, with its scores."""

    probe: ModelProbe
    frames: UInt8[np.ndarray, "k t h w 3"]
    text_ids: Int[np.ndarray, " l"]
    text_mask: Bool[np.ndarray, " l"]

    @functools.cached_property
    def visual_tokens(self) -> Float[np.ndarray, "k v d"]:
        """Encoded clips."""
        return self.probe.encode(self.frames)

    @functools.cached_property
    def scores(self) -> Float[np.ndarray, "k a"]:
        """Scores of the clips with nothing hidden."""
        return self.probe.score_with_hidden(self.visual_tokens, self.text_ids, self.text_mask)[0]

    @property
    def number(self) -> float:
        """Return the probe score."""
        return float(self.probe.probe_score.of_scores(self.scores[None])[0])

    def numbers_with_hidden(
        self,
        *,
        seen_text: Bool[np.ndarray, "m l"] | None = None,
        seen_cells: Bool[np.ndarray, "m k v"] | None = None,
        head_factors: Float[np.ndarray, "m layers heads"] | None = None,
    ) -> Float[np.ndarray, " m"]:
        """Return the probe score of m versions, each with parts hidden in all clips."""
        scores = self.probe.score_with_hidden(
            self.visual_tokens,
            self.text_ids,
            self.text_mask,
            seen_text=seen_text,
            seen_cells=seen_cells,
            head_factors=head_factors,
        )
        return self.probe.probe_score.of_scores(scores)


def changes_without_words(
    example: ProbedExample, words: Sequence[Sequence[int]]
) -> Float[np.ndarray, " words"]:
    """Return the change without each word, given by the indices of its tokens."""
    seen = np.ones((len(words), len(example.text_ids)), bool)
    for row, tokens in zip(seen, words, strict=True):
        row[list(tokens)] = False
    if not words:
        return np.zeros(0)
    return example.numbers_with_hidden(seen_text=seen) - example.number


def changes_without_cells(
    example: ProbedExample, grid: tuple[int, int], *, region: int = 1
) -> Float[np.ndarray, "k gh gw"]:
    """Return the change without each cell of each clip.

    Args:
      example: video and text.
      grid: rows and columns of cells.
      region: side of the squares of cells that are hidden together, to save time; all get the same change.
    """
    rows, columns = grid
    corners = list(itertools.product(range(0, rows, region), range(0, columns, region)))
    seen = np.ones((len(corners), rows, columns), bool)
    for picture, (row, column) in zip(seen, corners, strict=True):
        picture[row : row + region, column : column + region] = False
    num_clips = len(example.frames)
    # Clips do not see each other, so one pass hides the same cells in all clips.
    cells = np.broadcast_to(seen.reshape(len(seen), 1, -1), (len(seen), num_clips, rows * columns))
    replaced = example.probe.score_with_hidden(
        example.visual_tokens, example.text_ids, example.text_mask, seen_cells=cells
    )
    changes = changes_with_replaced_clips(example.scores, replaced, example.probe.probe_score)
    of_region = np.add.outer(
        np.arange(rows) // region * -(-columns // region), np.arange(columns) // region
    ).ravel()
    return changes[of_region].T.reshape(num_clips, rows, columns)


def changes_without_frames(example: ProbedExample) -> Float[np.ndarray, "k t"] | None:
    """Return the change without each frame of each clip; None if clips have one frame.

    The visual embedding then averages the other frames.
    """
    num_frames = example.frames.shape[1]
    if num_frames == 1:
        return None
    replaced = [
        example.probe.score_with_hidden(
            example.probe.encode(np.delete(example.frames, frame, axis=1)),
            example.text_ids,
            example.text_mask,
        )
        for frame in range(num_frames)
    ]
    changes = changes_with_replaced_clips(example.scores, np.concatenate(replaced), example.probe.probe_score)
    return changes.T


def changes_without_heads(
    example: ProbedExample, num_layers: int, num_heads: int
) -> Float[np.ndarray, "layers heads"]:
    """Return the change with each head switched off in all clips."""
    factors = 1 - np.eye(num_layers * num_heads, dtype=np.float32)
    changes = example.numbers_with_hidden(head_factors=factors.reshape(-1, num_layers, num_heads))
    return (changes - example.number).reshape(num_layers, num_heads)
