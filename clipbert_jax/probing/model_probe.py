"""A model made ready for probing: one video and one text at a time, with attention, or with parts hidden.

Parts are hidden as padding is: no token looks at them. Their places stay, so nothing else moves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.skeleton import Parameters, split_model
from clipbert_jax.probing.target import Target

OnProgress = Callable[[int], None]
"""Called with the number of versions of a clip that were scored since."""

_TOKENS_PER_CALL = 48_000
"""Of all sequences that are scored in one call; bounds the memory, as `evaluation.TOKENS_PER_CALL` does."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What the model made of a video and a text, with `s` the tokens of the text, then the cells."""

    scores: Float[np.ndarray, "k a"]
    """The head's outputs, clip by clip."""
    clip_numbers: Float[np.ndarray, " k"]
    """What each clip alone says of the target."""
    number: float
    """What they say together."""
    attention: Float[np.ndarray, "layers k heads s s"]
    attention_times_gradient: Float[np.ndarray, "layers k heads s s"]
    """Attention times the gradient of the number by it: to first order, what each value of it did."""
    hidden_states: Float[np.ndarray, "states k s d"]
    """The input of every layer, and the last output."""
    grid: tuple[int, int]
    """Rows and columns of cells."""

    @property
    def num_text_tokens(self) -> int:
        """Return l."""
        return self.attention.shape[-1] - self.grid[0] * self.grid[1]


class ModelProbe:
    """A model and what is probed of it; compiled programs are kept for each shape of inputs."""

    def __init__(self, model: ClipBert, target: Target, *, on_progress: OnProgress = lambda num: None):
        self.target = target
        self.on_progress = on_progress
        skeleton, trainable, frozen = split_model(model)
        self._parameters: Parameters = {**trainable, **frozen}
        self._num_layers, self._num_heads = model.config.fusion.num_layers, model.config.fusion.num_heads
        self._grid_of = lambda frames: _grid_shape(model, frames)

        @jax.jit
        def encode(parameters: Parameters, frames: Any) -> jax.Array:
            return skeleton.merge(parameters).encode_video(frames)

        @jax.jit
        def look(parameters: Parameters, tokens: Any, ids: Any, mask: Any) -> Any:
            def number(scale: jax.Array) -> Any:
                output = skeleton.merge(parameters).score_texts(
                    tokens,
                    ids,
                    mask,
                    attention_scale=scale,
                    return_attention=True,
                    return_hidden_states=True,
                )
                return self.target(output.scores)[0, 0], output

            size = tokens.shape[2] + ids.shape[2]
            ones = jnp.ones((self._num_layers, 1, tokens.shape[1], 1, self._num_heads, size, size))
            gradient, output = jax.grad(number, has_aux=True)(ones)
            return output, gradient

        @jax.jit
        def score(parameters: Parameters, tokens: Any, ids: Any, mask: Any, seen: Any, scale: Any) -> Any:
            rows = len(seen)
            tokens = jnp.broadcast_to(tokens, (rows, *tokens.shape[1:]))
            ids, mask = (jnp.broadcast_to(x, (rows, *x.shape[1:])) for x in (ids, mask))
            output = skeleton.merge(parameters).score_texts(
                tokens, ids, mask, visual_mask=seen, attention_scale=scale
            )
            return output.scores[:, :, 0]

        self._encode, self._look, self._score = encode, look, score

    def encode(self, frames: UInt8[np.ndarray, "k t h w 3"]) -> Float[np.ndarray, "k v d"]:
        """Return the visual tokens of a video's clips."""
        return np.asarray(self._encode(self._parameters, frames[None]))[0]

    def grid(self, frames: UInt8[np.ndarray, "k t h w 3"]) -> tuple[int, int]:
        """Return rows and columns of the cells that frames become."""
        return self._grid_of(frames)

    def look(
        self,
        frames: UInt8[np.ndarray, "k t h w 3"],
        text_ids: Int[np.ndarray, " l"],
        text_mask: Bool[np.ndarray, " l"],
    ) -> Look:
        """Return what the model makes of a video and a text."""
        return self.look_at_tokens(self.encode(frames), self.grid(frames), text_ids, text_mask)

    def look_at_tokens(
        self,
        visual_tokens: Float[np.ndarray, "k v d"],
        grid: tuple[int, int],
        text_ids: Int[np.ndarray, " l"],
        text_mask: Bool[np.ndarray, " l"],
    ) -> Look:
        """Return the same of a video that is encoded; padding at the end of the text is cut off."""
        length = int(np.flatnonzero(text_mask)[-1]) + 1
        texts = text_ids[None, None, :length], text_mask[None, None, :length]
        output, gradient = self._look(self._parameters, visual_tokens[None], *texts)
        scores = np.asarray(output.scores)[0, :, 0]
        attention = np.stack([np.asarray(layer)[0, :, 0] for layer in output.attention])
        return Look(
            scores=scores,
            clip_numbers=self.target.of_clips(scores),
            number=float(self.target.of_scores(scores[None])[0]),
            attention=attention,
            # The gradient by factors that are one is attention times the gradient by attention.
            attention_times_gradient=np.asarray(gradient)[:, 0, :, 0],
            hidden_states=np.stack([np.asarray(state)[0, :, 0] for state in output.hidden_states]),
            grid=grid,
        )

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
          visual_tokens: of `encode`.
          text_ids: of the text.
          text_mask: of the text.
          seen_text: False at tokens that are hidden.
          seen_cells: False at cells that are hidden.
          head_factors: of what each head says; 0 switches it off.
        """
        given = [x for x in (seen_text, seen_cells, head_factors) if x is not None]
        num_versions = len(given[0]) if given else 1
        num_clips, num_cells = visual_tokens.shape[:2]
        size = max(1, _TOKENS_PER_CALL // (num_clips * (num_cells + len(text_ids))))
        parts = []
        for places in _tiles(num_versions, min(size, num_versions)):
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
    """Yield the places of all versions in tiles of one size; the last place is repeated to fill the last."""
    for start in range(0, num, size):
        yield np.minimum(np.arange(start, start + size), num - 1)


def _grid_shape(model: ClipBert, frames: UInt8[np.ndarray, "k t h w 3"]) -> tuple[int, int]:
    one = jax.ShapeDtypeStruct((1, 1, 1, *frames.shape[2:]), frames.dtype)
    graphdef, state = nnx.split(model)
    shape = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state).pixel_encoder(x), state, one).shape
    return shape[3], shape[4]
