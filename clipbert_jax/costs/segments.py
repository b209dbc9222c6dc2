"""What each part of the model keeps in memory from its forward pass for its backward pass.

Segments are residual blocks, fusion layers and what is around them: the units of rematerialisation. What one
keeps follows from its derivatives, and from habits of the platform's compiler, which were read off the arrays
that are alive in compiled programs (`Keeping`). `memory.py` adds the segments up.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.costs.devices import Platform
from clipbert_jax.costs.pixel_encoder import FeatureMap, ResidualBlock, residual_blocks, stem_map
from clipbert_jax.costs.sizes import Sizes
from clipbert_jax.models.heads import HeadConfig, PretrainingHeadConfig
from clipbert_jax.models.kernel_choices import KernelChoices, default_kernel_choices
from clipbert_jax.models.remat import Remat

_FLOAT32 = 4
_WINDOW = 9
_PLACE_BYTES = 16
"""Of where a maximum was, in four dimensions."""
_NUM_NORM_ARRAYS = 5
"""Of an embedding, its norm included."""
_NUM_WORKING = 5
"""Of the hidden size while the backward pass of a fusion layer runs."""
_NUM_POOLED, _NUM_TRANSFORMED = 6, 4
"""Vectors of the head, for each pair, and for each text token that it reads."""

EMBEDDINGS = "embeddings"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keeping:
    """Habits of a compiler; `num_` counts arrays, bytes are of one number."""

    operand_bytes: int = 0
    """Of what products read, if more than of the compute dtype: XLA's products on a CPU read float32."""
    keeps_before_relu: bool = False
    """What a ReLU was given, besides what it gave."""
    keeps_pool_places: bool = False
    """Where the maxima of a pool were, and zeros to add its gradient to."""
    hidden_bytes: int = 0
    """Of arrays of the hidden size, if more: norms are computed in float32."""
    num_hidden: int = 8
    """Of the hidden size in a fusion layer: queries, keys, values, contexts; input and output of norms."""
    num_inner: int = 3
    """Of the inner size: what the GELU was given, what it gave, its derivative."""
    num_squares: int = 1
    """Float32 arrays of who attends to whom, besides the operand of the product with the values."""
    num_squares_without_dropout: int = 1
    dropout_bytes: int = 1
    """Of an element that dropout decides about: the decision, or the random words that it is made from."""


KEEPING: dict[Platform, Keeping] = {
    "cpu": Keeping(
        operand_bytes=_FLOAT32,
        keeps_before_relu=True,
        keeps_pool_places=True,
        hidden_bytes=_FLOAT32,
        num_hidden=12,
        num_inner=4,
        num_squares_without_dropout=2,
        dropout_bytes=8,
    ),
    "gpu": Keeping(),
    "tpu": Keeping(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of the model that the backward pass goes through at once."""

    name: str
    """Such as `res3.0` or `fusion.11`."""
    kept: int
    """Bytes from its forward pass to its backward pass."""
    working: int = 0
    """Bytes while its backward pass runs, besides."""
    forward: int = 0
    """Bytes while its forward pass runs."""

    def rematerialised(self, kept: int) -> Segment:
        """Return the segment if it keeps so many bytes, and computes the rest again when it needs it."""
        return dataclasses.replace(self, kept=kept, working=self.working + self.kept)


def element_bytes(config: ClipBertConfig) -> int:
    """Return the bytes of a number in the compute dtype."""
    return {"bfloat16": 2, "float32": 4, "float64": 8}[config.compute_dtype]


def make_segments(
    sizes: Sizes, head: HeadConfig, platform: Platform, *, remat: Remat = "none", num_tensor: int = 1
) -> tuple[Segment, ...]:
    """Return the segments in the order of the forward pass; frozen ones keep nothing.

    Args:
      sizes: of the model, and of the part of a batch that one device goes through at once.
      head: the task's.
      platform: whose compiler.
      remat: what is computed again.
      num_tensor: devices that share the products of the fusion, and its sequences.
    """
    maker = _Maker(sizes, head, KEEPING[platform], default_kernel_choices(platform), remat, num_tensor)
    return (*maker.pixel_encoder(), maker.embeddings(), *maker.fusion(), maker.head_segment())


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes the segments of one model."""

    sizes: Sizes
    head: HeadConfig
    keeping: Keeping
    kernels: KernelChoices
    remat: Remat
    num_tensor: int

    @property
    def _element(self) -> int:
        return element_bytes(self.sizes.config)

    @property
    def _operand(self) -> int:
        return max(self._element, self.keeping.operand_bytes)

    @property
    def _hidden(self) -> int:
        return max(self._element, self.keeping.hidden_bytes)

    # ---- Pixel encoder ------------------------------------------------------------------------------------

    def pixel_encoder(self) -> Iterator[Segment]:
        """Yield the stem, the residual blocks and the grid encoder."""
        num_frozen = self.sizes.config.pixel_encoder.num_frozen_stages
        blocks = list(residual_blocks(self.sizes))
        yield self._stem(is_trained=num_frozen == 0)
        for block, following in itertools.zip_longest(blocks, blocks[1:]):
            if block.stage < num_frozen:
                yield self._of_frames(block.name, 0, forward=self._forward(block))
            else:
                yield self._residual_block(block, following, is_first=block.stage == num_frozen)
        yield self._grid_encoder(blocks[-1].y)

    def _stem(self, *, is_trained: bool) -> Segment:
        shape, y = self.sizes.shape, stem_map(self.sizes)
        pooled = y.halved(y.features)
        pixels = 3 * shape.height * shape.width
        forward = (pixels + y.num_numbers + pooled.num_numbers) * self._element
        if not is_trained:
            return self._of_frames("stem", 0, forward=forward)
        kept = (pixels + pooled.num_numbers) * self._operand + y.num_numbers * self._element
        kept += self._pool(y, pooled.num_numbers)
        return self._of_frames("stem", kept, working=y.num_numbers * self._operand, forward=forward)

    def _forward(self, block: ResidualBlock) -> int:
        """Return what a block needs as it runs: what comes in, and what each of its convolutions gives."""
        numbers = block.x.num_numbers + 2 * block.middle.num_numbers + block.y.num_numbers
        return (numbers + block.y.num_numbers * (block.index == 0)) * self._element

    def _residual_block(
        self, block: ResidualBlock, following: ResidualBlock | None, *, is_first: bool
    ) -> Segment:
        """Return a block; `is_first` of the first trained stage, of which nothing before keeps the input."""
        middle, y = block.middle.num_numbers, block.y.num_numbers
        kept = (2 * middle + y) * self._element
        if block.index == 0 and (is_first or block.has_stride):  # the places of the input that are read
            kept += block.y.num_places * block.x.features * self._operand
        if self.keeping.keeps_before_relu:
            has_windows = f"res{block.stage + 1}" in self.kernels.window_products
            kept += middle * ((_WINDOW if has_windows else 1) + 1) * self._operand
            kept += y * self._element * (block.index == 0)  # the shortcut, which the last ReLU was given too
            if following is not None and not following.has_stride:
                kept += y * self._operand
        working = 2 * (middle + y) * self._operand
        segment = self._of_frames(block.name, kept, working=working, forward=self._forward(block))
        return self._maybe_rematerialised(segment, self.sizes.num_frames * block.x.num_numbers)

    def _grid_encoder(self, x: FeatureMap) -> Segment:
        y = dataclasses.replace(x, features=self.sizes.config.fusion.hidden_size)
        pooled = self.sizes.num_cells * y.features
        kept, working = y.num_numbers * self._element, y.num_numbers * self._operand
        if "grid_encoder" in self.kernels.window_products:
            windows = _WINDOW * x.num_numbers * self._operand
            kept, working = kept + windows, working + windows
        kept += pooled * _FLOAT32 + self._pool(y, pooled)
        return self._of_frames("grid_encoder", kept, working=working)

    def _pool(self, x: FeatureMap, num_pooled: int) -> int:
        """Return what a pool keeps besides its input."""
        if not self.keeping.keeps_pool_places:
            return 0
        return x.num_numbers * _FLOAT32 + num_pooled * _PLACE_BYTES

    def _of_frames(self, name: str, kept: int, *, working: int = 0, forward: int = 0) -> Segment:
        """Return a segment from bytes of one frame."""
        num_frames = self.sizes.num_frames
        return Segment(
            name=name, kept=num_frames * kept, working=num_frames * working, forward=num_frames * forward
        )

    def _maybe_rematerialised(self, segment: Segment, num_inputs: int) -> Segment:
        """Return what is left of a segment that keeps its input alone, if such a one is computed again."""
        return segment.rematerialised(num_inputs * self._element) if self.remat == "full" else segment

    # ---- Embeddings, fusion and head ----------------------------------------------------------------------

    def embeddings(self) -> Segment:
        """Return the visual and the text embedding, and what pairs them."""
        sizes, d = self.sizes, self.sizes.config.fusion.hidden_size
        visual = sizes.num_clips * sizes.num_visual_tokens * d
        text = sizes.num_texts * sizes.shape.text_length * d
        pairs = sizes.num_pairs * sizes.sequence_length * d
        kept = (visual + text) * (_NUM_NORM_ARRAYS * self._hidden + self._dropout) + pairs * self._operand
        return Segment(name=EMBEDDINGS, kept=self.num_tensor * kept)

    @property
    def _dropout(self) -> int:
        return self.keeping.dropout_bytes * (self.sizes.config.fusion.dropout_rate > 0)

    def fusion(self) -> Iterator[Segment]:
        """Yield the layers; the last computes only the tokens that the head reads."""
        last = self.sizes.config.fusion.num_layers - 1
        for index in range(last + 1):
            yield self._fusion_layer(f"fusion.{index}", self._num_last if index == last else None)

    @property
    def _num_last(self) -> int | None:
        """Tokens of a sequence that the last layer computes; None for all."""
        if not self.kernels.trims_last_layer:
            return None
        return self.sizes.shape.text_length if isinstance(self.head, PretrainingHeadConfig) else 1

    def _fusion_layer(self, name: str, num_rows: int | None) -> Segment:
        config, length = self.sizes.config.fusion, self.sizes.sequence_length
        num_sequences = self.sizes.num_pairs * self.num_tensor
        tokens = num_sequences * length
        rows = num_sequences * (num_rows or length)
        hidden, inner = rows * config.hidden_size, rows * config.intermediate_size // self.num_tensor
        squares = rows * length * config.num_heads // self.num_tensor
        # Of the hidden size two arrays, keys and values, are of all tokens; heads, and so these two, queries
        # and contexts, are divided among devices that share the products.
        divided = (2 * tokens + 2 * rows) * config.hidden_size // self.num_tensor
        kept = (divided + (self.keeping.num_hidden - 4) * hidden) * self._hidden
        kept += inner * (self._operand + (self.keeping.num_inner - 1) * self._element)
        kept += squares * self._square + 2 * hidden * self._dropout
        working = _NUM_WORKING * hidden * self._hidden + inner * self._element
        segment = Segment(name=name, kept=kept, working=working)
        if self.remat == "dots":
            of_products = divided + 3 * hidden + inner
            return segment.rematerialised(of_products * self._element)
        return self._maybe_rematerialised(segment, tokens * config.hidden_size)

    @property
    def _square(self) -> int:
        """Return the bytes for two tokens, of which one attends to the other."""
        if self.sizes.config.fusion.attention_dropout_rate > 0:
            return self.keeping.num_squares * _FLOAT32 + self._operand + self.keeping.dropout_bytes
        return self.keeping.num_squares_without_dropout * _FLOAT32 + self._operand

    def head_segment(self) -> Segment:
        """Return the pooler and the head."""
        sizes, config = self.sizes, self.sizes.config.fusion
        kept, working = sizes.num_pairs * config.hidden_size * _NUM_POOLED * _FLOAT32, 0
        if isinstance(self.head, PretrainingHeadConfig):
            num_rows = sizes.num_pairs * sizes.shape.text_length
            kept += num_rows * (_NUM_TRANSFORMED * config.hidden_size + config.vocab_size) * _FLOAT32
            working += num_rows * config.vocab_size * _FLOAT32
        return Segment(name="head", kept=kept, working=working)
