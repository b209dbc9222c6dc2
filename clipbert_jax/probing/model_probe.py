"""Runs a model for probing: one video and one text at a time, with attention or with parts hidden.

Hidden parts are masked as padding is: no token attends to them. They keep their positions.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.model_def import Parameters, split_model
from clipbert_jax.models.pixel_encoder import grid_size
from clipbert_jax.probing.probe_score import ProbeScore

OnProgress = Callable[[int], None]
"""Callback that takes the number of clips scored since the last call."""

_TOKENS_PER_CALL = 48_000
"""Largest number of tokens scored in one call; bounds the memory."""

_ATTENTION_PER_CALL = 32_000_000
"""Largest number of attention values per call; with their factors and gradients about 1 GB."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AttentionRecord:
    """Attention and scores of a video and a text; `s` is the tokens of the text, then the cells."""

    scores: Float[np.ndarray, "k a"]
    """Outputs of the head for each clip."""
    clip_numbers: Float[np.ndarray, " k"]
    """Probe score of each clip alone."""
    number: float
    """Probe score of all clips together."""
    attention: Float[np.ndarray, "layers k heads s s"]
    attention_times_gradient: Float[np.ndarray, "layers k heads s s"]
    """Attention times the gradient of the probe score: to first order, the effect of each value."""
    hidden_states: Float[np.ndarray, "states k s d"]
    """Input of every layer, and the last output."""
    grid: tuple[int, int]
    """Rows and columns of cells."""


class ModelProbe:
    """A model and its probe score; programs are compiled once for each shape of inputs."""

    def __init__(self, model: ClipBert, probe_score: ProbeScore):
        self.probe_score = probe_score
        self.on_progress: OnProgress = lambda num: None
        model_def, trainable, frozen = split_model(model)
        self._parameters: Parameters = {**trainable, **frozen}
        self._num_layers, self._num_heads = model.config.fusion.num_layers, model.config.fusion.num_heads
        self._encoder_config = model.config.pixel_encoder

        @jax.jit
        def encode(parameters: Parameters, frames: Any) -> jax.Array:
            return model_def.merge(parameters).encode_video(frames)

        @jax.jit
        def record(parameters: Parameters, tokens: Any, ids: Any, mask: Any, weights: Any) -> Any:
            def weighted(scale: jax.Array) -> Any:
                output = model_def.merge(parameters).score_texts(
                    tokens,
                    ids,
                    mask,
                    attention_scale=scale,
                    return_attention=True,
                    return_hidden_states=True,
                )
                return jnp.sum(output.scores[0, :, 0] * weights), output

            size = tokens.shape[2] + ids.shape[2]
            ones = jnp.ones((self._num_layers, 1, tokens.shape[1], 1, self._num_heads, size, size))
            gradient, output = jax.grad(weighted, has_aux=True)(ones)
            return output.attention, output.hidden_states, gradient

        @jax.jit
        def score(parameters: Parameters, tokens: Any, ids: Any, mask: Any, seen: Any, scale: Any) -> Any:
            rows = len(seen)
            tokens = jnp.broadcast_to(tokens, (rows, *tokens.shape[1:]))
            ids, mask = (jnp.broadcast_to(x, (rows, *x.shape[1:])) for x in (ids, mask))
            output = model_def.merge(parameters).score_texts(
                tokens, ids, mask, visual_mask=seen, attention_scale=scale
            )
            return output.scores[:, :, 0]

        self._encode, self._record, self._score = encode, record, score

    def of(self, probe_score: ProbeScore, *, on_progress: OnProgress = lambda num: None) -> ModelProbe:
        """Return the same model with another probe score; both share the compiled programs."""
        other = copy.copy(self)
        other.probe_score, other.on_progress = probe_score, on_progress
        return other

    def encode(self, frames: UInt8[np.ndarray, "k t h w 3"]) -> Float[np.ndarray, "k v d"]:
        """Return the visual tokens of a video's clips."""
        return np.asarray(self._encode(self._parameters, frames[None]))[0]

    def grid(self, frames: UInt8[np.ndarray, "k t h w 3"]) -> tuple[int, int]:
        """Return rows and columns of the grid of frames."""
        return grid_size(self._encoder_config, *frames.shape[2:4])

    def record(
        self,
        frames: UInt8[np.ndarray, "k t h w 3"],
        text_ids: Int[np.ndarray, " l"],
        text_mask: Bool[np.ndarray, " l"],
    ) -> AttentionRecord:
        """Return attention and scores of a video and a text."""
        return self.record_from_tokens(self.encode(frames), self.grid(frames), text_ids, text_mask)

    def record_from_tokens(
        self,
        visual_tokens: Float[np.ndarray, "k v d"],
        grid: tuple[int, int],
        text_ids: Int[np.ndarray, " l"],
        text_mask: Bool[np.ndarray, " l"],
    ) -> AttentionRecord:
        """Return the same for an encoded video; padding at the end of the text is left out."""
        (scores,) = self.score_with_hidden(visual_tokens, text_ids, text_mask)
        weights = np.asarray(
            jax.grad(lambda x: self.probe_score(x[None, :, None])[0, 0])(jnp.asarray(scores))
        )
        length, whole = int(np.flatnonzero(text_mask)[-1]) + 1, len(text_mask)
        kept = np.r_[:length, whole : whole + visual_tokens.shape[1]]
        parts = [
            self._record_clips(visual_tokens[clips], text_ids, text_mask, weights[clips], kept)
            for clips in _tiles(
                len(scores), self._clips_per_call(visual_tokens.shape[1] + whole, len(scores))
            )
        ]
        attention, hidden_states, gradient = (
            np.concatenate(arrays, axis=1)[:, : len(scores)] for arrays in zip(*parts, strict=True)
        )
        return AttentionRecord(
            scores=scores,
            clip_numbers=self.probe_score.of_clips(scores),
            number=float(self.probe_score.of_scores(scores[None])[0]),
            attention=attention,
            # The gradient by factors that are one is attention times the gradient by attention.
            attention_times_gradient=gradient,
            hidden_states=hidden_states,
            grid=grid,
        )

    def _record_clips(
        self,
        visual_tokens: Float[np.ndarray, "k v d"],
        text_ids: Int[np.ndarray, " l"],
        text_mask: Bool[np.ndarray, " l"],
        weights: Float[np.ndarray, "k a"],
        kept: Int[np.ndarray, " s"],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return attention, hidden states and gradient of some clips at the tokens `kept`."""
        texts = text_ids[None, None], text_mask[None, None]
        attention, states, gradient = self._record(self._parameters, visual_tokens[None], *texts, weights)
        pairs = kept[:, None], kept
        return (
            np.stack([np.asarray(layer)[0, :, 0][(..., *pairs)] for layer in attention]),
            np.stack([np.asarray(state)[0, :, 0][:, kept] for state in states]),
            np.asarray(gradient)[:, 0, :, 0][(..., *pairs)],
        )

    def _clips_per_call(self, size: int, num_clips: int) -> int:
        of_clip = self._num_layers * self._num_heads * size**2
        return max(1, min(num_clips, _ATTENTION_PER_CALL // of_clip))

    def score_with_hidden(
        self,
        visual_tokens: Float[np.ndarray, "k v d"],
        text_ids: Int[np.ndarray, " l"],
        text_mask: Bool[np.ndarray, " l"],
        *,
        seen_text: Bool[np.ndarray, "m l"] | None = None,
        seen_cells: Bool[np.ndarray, "m k v"] | None = None,
        head_factors: Float[np.ndarray, "m layers heads"] | None = None,
    ) -> Float[np.ndarray, "m k a"]:
        """Return the scores of m versions of a video and its text, each with parts hidden.

        Args:
          visual_tokens: visual tokens from `encode`.
          text_ids: token ids of the text.
          text_mask: True at real tokens.
          seen_text: False at tokens that are hidden.
          seen_cells: False at cells that are hidden.
          head_factors: factors of the output of each head; 0 switches it off.
        """
        given = [x for x in (seen_text, seen_cells, head_factors) if x is not None]
        num_versions = len(given[0]) if given else 1
        num_clips, num_cells = visual_tokens.shape[:2]
        size = max(1, _TOKENS_PER_CALL // (num_clips * (num_cells + len(text_ids))))
        parts = []
        # Powers of two, so that other numbers of versions reuse the compiled programs.
        size = min(size, 1 << (num_versions - 1).bit_length())
        for places in _tiles(num_versions, size):
            cells = np.ones((len(places), num_clips, num_cells), bool)
            cells = cells if seen_cells is None else seen_cells[places]
            text = np.broadcast_to(text_mask, (len(places), len(text_mask)))
            text = text if seen_text is None else text & seen_text[places]
            scale = None
            if head_factors is not None:
                scale = np.moveaxis(head_factors[places], 0, 1)[:, :, None, None, :, None, None]
            arrays = (visual_tokens[None], text_ids[None, None], text[:, None], cells, scale)
            parts.append(np.asarray(self._score(self._parameters, *arrays)))
            self.on_progress(len(places) * num_clips)
        return np.concatenate(parts)[:num_versions]


def _tiles(num: int, size: int) -> Iterator[np.ndarray]:
    """Yield the indices of all versions in tiles of one size; the last index fills the last tile."""
    for start in range(0, num, size):
        yield np.minimum(np.arange(start, start + size), num - 1)
