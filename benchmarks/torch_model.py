"""ClipBERT in PyTorch, written to be fast: the model of the peer that ours is timed against.

Names and layouts of the weights are the original's, but for the fused projections of the attention, so
that `load_original` takes a checkpoint of either. `torch_peer.py` makes losses, updates and times of it.

Parameters are float32; with compute_dtype bfloat16 the caller runs the model under `torch.autocast`.
Axis letters are those of `clipbert_jax/batch.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from clipbert_jax.config import ClipBertConfig, FusionConfig, PixelEncoderConfig
from clipbert_jax.models.heads import ClassifierHeadConfig, HeadConfig, PretrainingHeadConfig
from clipbert_jax.weights.original_names import ALIASES, is_ignored

_NORM_EPS = 1e-5


class FrozenBatchNorm(nn.Module):
    """Statistics that never change, with a scale and a bias that may be trained."""

    def __init__(self, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def multiplier_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the affine map that the norm is."""
        multiplier = self.weight * torch.rsqrt(self.running_var + _NORM_EPS)
        return multiplier, self.bias - self.running_mean * multiplier


class NormedConv(nn.Module):
    """Convolution whose batch norm is folded into the weights: once if they are fixed, else as it is applied.

    Folding costs a pass over weights, which the cast to bfloat16 reads and writes anyway and Inductor fuses
    with it, and leaves one pointwise kernel of bias and ReLU. The affine map after the convolution has that
    kernel too, and if the scale is trained it also keeps the convolution's output for a sum in the backward
    pass. The gradients are the same.
    """

    def __init__(self, in_features: int, out_features: int, size: int, stride: int = 1):
        super().__init__()
        self.stride, self.padding = stride, size // 2
        self.weight = nn.Parameter(torch.empty(out_features, in_features, size, size))
        self.norm = FrozenBatchNorm(out_features)
        self.multiplier: Tensor | None = None
        self.shift: Tensor | None = None

    @torch.no_grad()
    def prepare(self, dtype: Any, *, is_trained: bool) -> None:
        """Compute once what no update will change, after the weights are loaded."""
        multiplier, shift = self.norm.multiplier_and_shift()
        if not is_trained or not self.weight.requires_grad:
            self.weight.requires_grad_(False)
            self.weight.data = (self.weight * multiplier[:, None, None, None]).to(dtype)
            self.shift = shift.to(dtype)
        elif not self.norm.weight.requires_grad:
            self.multiplier, self.shift = multiplier[:, None, None, None], shift.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        weight, shift = self.weight, self.shift
        if shift is None:
            multiplier, shift = self.norm.multiplier_and_shift()
            weight = weight * multiplier[:, None, None, None]
        elif self.multiplier is not None:
            weight = weight * self.multiplier
        return F.conv2d(x, weight, shift, self.stride, self.padding)


class Stem(nn.Module):
    """7x7 convolution and max pool."""

    def __init__(self, features: int):
        super().__init__()
        self.conv1 = NormedConv(3, features, 7, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Take the resolution to a quarter."""
        return F.max_pool2d(F.relu(self.conv1(x)), 3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """1x1 (with the stride), 3x3, 1x1, added to the shortcut."""

    def __init__(self, in_features: int, out_features: int, *, stride: int, is_first: bool):
        super().__init__()
        width = out_features // 4
        self.conv1 = NormedConv(in_features, width, 1, stride)
        self.conv2 = NormedConv(width, width, 3)
        self.conv3 = NormedConv(width, out_features, 1)
        self.shortcut = NormedConv(in_features, out_features, 1, stride) if is_first else None

    def forward(self, x: Tensor) -> Tensor:
        """Refine the features."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.relu(self.conv3(x) + shortcut)


class PixelEncoder(nn.Module):
    """Frames [m h w 3] to grids [m d gh gw], channels last in memory from the pixels on."""

    def __init__(self, config: PixelEncoderConfig, width: int, dtype: Any):
        super().__init__()
        self.dtype = dtype
        self.num_frozen_stages = config.num_frozen_stages
        stages: dict[str, nn.Module] = {"stem": Stem(config.stem_width)}
        in_features, out_features = config.stem_width, config.stage_width
        for stage, num_blocks in enumerate(config.stage_blocks):
            stages[f"res{stage + 2}"] = nn.Sequential(
                *(
                    Bottleneck(
                        in_features if block == 0 else out_features,
                        out_features,
                        stride=2 if block == 0 and stage > 0 else 1,
                        is_first=block == 0,
                    )
                    for block in range(num_blocks)
                )
            )
            in_features, out_features = out_features, 2 * out_features
        self.feature = nn.ModuleDict({"backbone": nn.ModuleDict(stages)})
        conv = nn.Conv2d(in_features, width, 3, padding=1, bias=False)
        self.grid_encoder = nn.Sequential(conv, nn.MaxPool2d(2), nn.ReLU())
        exact = torch.promote_types(dtype, torch.float32)
        self.register_buffer("pixel_mean", torch.tensor(config.pixel_mean, dtype=exact), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.pixel_std, dtype=exact), persistent=False)
        if not config.is_norm_trainable:
            for module in self.modules():
                if isinstance(module, FrozenBatchNorm):
                    module.requires_grad_(False)
        for stage in list(stages.values())[: config.num_frozen_stages]:
            stage.requires_grad_(False)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode frames: RGB, 0-255, uint8."""
        x = ((frames.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std).flip(-1)
        x = x.to(self.dtype).permute(0, 3, 1, 2)
        stages = list(self.feature["backbone"].values())
        with torch.no_grad():
            for stage in stages[: self.num_frozen_stages]:
                x = stage(x)
        for stage in stages[self.num_frozen_stages :]:
            x = stage(x)
        return self.grid_encoder(x)


class LayerNorm(nn.LayerNorm):
    """Layer norm that gives what it takes: autocast alone would leave all hidden states in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with statistics in at least float32."""
        return super().forward(x).to(x.dtype)


class ScoreLinear(nn.Linear):
    """Affine layer in the parameters' precision, because rankings are made of small differences."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


def _dense_and_norm(in_features: int, config: FusionConfig) -> nn.ModuleDict:
    width = config.hidden_size
    norm = LayerNorm(width, eps=config.layer_norm_eps)
    return nn.ModuleDict({"dense": nn.Linear(in_features, width), "LayerNorm": norm})


class FusionLayer(nn.Module):
    """Self-attention and a feed-forward network, each added to its input and then normed."""

    def __init__(self, config: FusionConfig):
        super().__init__()
        self.config = config
        width, inner_width = config.hidden_size, config.intermediate_size
        projections = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width)})
        self.attention = nn.ModuleDict({"self": projections, "output": _dense_and_norm(width, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner_width)})
        self.output = _dense_and_norm(inner_width, config)

    def forward(self, x: Tensor, mask: Tensor | None, num_rows: int | None = None) -> Tensor:
        """Return the next hidden states [m s d], if asked only those of the first tokens.

        No mask means that every token exists.
        """
        attended = self._attend(x, mask, num_rows)
        x = self._add_and_norm(x[:, :num_rows], attended, self.attention["output"])
        return self._add_and_norm(x, F.gelu(self.intermediate["dense"](x)), self.output)

    def _attend(self, x: Tensor, mask: Tensor | None, num_rows: int | None) -> Tensor:
        width, projection = x.shape[-1], self.attention["self"]["qkv"]
        if num_rows is None:
            query, key, value = self._heads(projection(x))
        else:
            weight, bias = projection.weight, projection.bias
            (query,) = self._heads(F.linear(x[:, :num_rows], weight[:width], bias[:width]))
            key, value = self._heads(F.linear(x, weight[width:], bias[width:]))
        rate = self.config.attention_dropout_rate if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return x.transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Cut projections [m s parts*d] into parts and heads: of each part [m heads s e]."""
        config = self.config
        x = x.unflatten(-1, (-1, config.num_heads, config.hidden_size // config.num_heads))
        return x.permute(2, 0, 3, 1, 4).unbind(0)

    def _add_and_norm(self, x: Tensor, added: Tensor, parts: nn.ModuleDict) -> Tensor:
        added = F.dropout(parts["dense"](added), self.config.dropout_rate, self.training)
        return parts["LayerNorm"](x + added)


class TextEmbeddings(nn.Module):
    """Text ids [b n l] to embeddings [b n l d]."""

    def __init__(self, config: FusionConfig, dtype: Any):
        super().__init__()
        self.dtype, self.dropout_rate = dtype, config.dropout_rate
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_text_length, width)
        self.token_type_embeddings = nn.Embedding(config.num_token_types, width)
        self.LayerNorm = LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, text_ids: Tensor) -> Tensor:
        """Embed the texts."""
        x = self.word_embeddings(text_ids) + self.position_embeddings.weight[: text_ids.shape[-1]]
        x = self.LayerNorm(x + self.token_type_embeddings.weight[0]).to(self.dtype)
        return F.dropout(x, self.dropout_rate, self.training)


class VisualEmbeddings(nn.Module):
    """Grids [b k t gh gw d] to visual tokens [b k v d]."""

    def __init__(self, config: FusionConfig, dtype: Any):
        super().__init__()
        self.dtype, self.dropout_rate = dtype, config.dropout_rate
        width = config.hidden_size
        self.row_position_embeddings = nn.Embedding(config.max_grid_rows, width)
        self.col_position_embeddings = nn.Embedding(config.max_grid_columns, width)
        self.token_type_embeddings = nn.Embedding(1, width)
        self.LayerNorm = LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, grid: Tensor, sampled_tokens: Tensor | None) -> Tensor:
        """Average over time, add the place, keep the sampled tokens."""
        num_rows, num_columns = grid.shape[3:5]
        x = grid.mean(2) + self.row_position_embeddings.weight[:num_rows, None]
        x = (x + self.col_position_embeddings.weight[:num_columns]).flatten(2, 3)
        if sampled_tokens is not None:
            x = x.index_select(2, sampled_tokens)
        x = self.LayerNorm(x + self.token_type_embeddings.weight[0]).to(self.dtype)
        return F.dropout(x, self.dropout_rate, self.training)


class PretrainingHead(nn.Module):
    """BERT's heads for masked words and for matching."""

    def __init__(self, config: FusionConfig):
        super().__init__()
        width = config.hidden_size
        self.predictions = nn.Module()
        self.predictions.transform = _dense_and_norm(width, config)
        self.predictions.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.seq_relationship = ScoreLinear(width, 2)

    def forward(self, pooled: Tensor, text_states: Tensor, word_table: Tensor) -> tuple[Tensor, Tensor]:
        """Return matching scores [... 2] and logits over the vocabulary [... l vocab]."""
        parts = self.predictions.transform
        x = parts["LayerNorm"](F.gelu(parts["dense"](text_states)))
        return self.seq_relationship(pooled), F.linear(x, word_table, self.predictions.bias)


class Transformer(nn.Module):
    """Embeddings, the fusion and the head."""

    def __init__(self, config: ClipBertConfig, head: HeadConfig, dtype: Any):
        super().__init__()
        fusion = config.fusion
        width = fusion.hidden_size
        self.bert = nn.Module()
        self.bert.embeddings = TextEmbeddings(fusion, dtype)
        self.bert.visual_embeddings = VisualEmbeddings(fusion, dtype)
        layers = nn.ModuleList(FusionLayer(fusion) for _ in range(fusion.num_layers))
        self.bert.encoder = nn.ModuleDict({"layer": layers})
        self.bert.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})
        self.dropout_rate = fusion.dropout_rate
        self.cls = None
        match head:
            case PretrainingHeadConfig():
                self.cls = PretrainingHead(fusion)
            case ClassifierHeadConfig():
                output = ScoreLinear(2 * width, head.num_outputs)
                self.classifier = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), output)
            case _:
                raise ValueError(f"The peer has no head for {head}.")

    def forward(
        self, visual_tokens: Tensor, text_ids: Tensor, text_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scores [b k n a] and in pretraining the word logits [b k n l vocab]."""
        b, k, v, d = visual_tokens.shape
        n, length = text_ids.shape[1:]
        text = self.bert.embeddings(text_ids)[:, None].expand(b, k, n, length, d)
        visual_tokens = visual_tokens[:, :, None].expand(b, k, n, v, d)
        x = torch.cat([text, visual_tokens], dim=3).flatten(0, 2)
        mask = None if text_mask is None else self._sequence_mask(text_mask, k, v)
        *layers, last_layer = self.bert.encoder["layer"]
        for layer in layers:
            x = layer(x, mask)
        # Of the last layer only what a head reads: all text, or the first token.
        x = last_layer(x, mask, 1 if self.cls is None else length).unflatten(0, (b, k, n))
        pooled = torch.tanh(self.bert.pooler["dense"](x[..., 0, :]))
        if self.cls is not None:
            return self.cls(pooled, x, self.bert.embeddings.word_embeddings.weight)
        return self.classifier(F.dropout(pooled, self.dropout_rate, self.training)), None

    def _sequence_mask(self, text_mask: Tensor, num_clips: int, num_visual_tokens: int) -> Tensor:
        mask = F.pad(text_mask, (0, num_visual_tokens), value=True)[:, None]
        return mask.expand(-1, num_clips, -1, -1).flatten(0, 2)[:, None, None, :]


class PeerModel(nn.Module):
    """Frames, texts -> scores of every clip; see `clipbert_jax.models.clipbert.ClipBert`."""

    def __init__(self, config: ClipBertConfig, head: HeadConfig):
        super().__init__()
        self.config = config
        self.compute_dtype = getattr(torch, config.compute_dtype)
        self.cnn = PixelEncoder(config.pixel_encoder, config.fusion.hidden_size, self.compute_dtype)
        self.transformer = Transformer(config, head, self.compute_dtype)
        self._draw_weights()
        if config.compute_dtype == "float64":
            self.double()
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _draw_weights(self) -> None:
        """Draw as our model does, for timing without a checkpoint."""
        for module in self.modules():
            if isinstance(module, NormedConv):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, Bottleneck):
                module.conv3.norm.weight.fill_(0.2)
            elif isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(std=self.config.fusion.initializer_range)

    def forward(
        self,
        frames: Tensor,
        text_ids: Tensor,
        text_mask: Tensor | None,
        sampled_tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scores [b k n a] and in pretraining the word logits [b k n l vocab]."""
        return self.transformer(self.encode_video(frames, sampled_tokens), text_ids, text_mask)

    def encode_video(self, frames: Tensor, sampled_tokens: Tensor | None = None) -> Tensor:
        """Turn frames [b k t h w 3] into visual tokens [b k v d]."""
        grid = self.cnn(frames.flatten(0, 2)).permute(0, 2, 3, 1).unflatten(0, frames.shape[:3])
        return self.transformer.bert.visual_embeddings(grid, sampled_tokens)

    def prepare(self, *, is_trained: bool) -> PeerModel:
        """Fold and cast once what no update will change; call after the weights are loaded."""
        for module in self.modules():
            if isinstance(module, NormedConv):
                module.prepare(self.compute_dtype, is_trained=is_trained)
            elif not is_trained and type(module) in (nn.Linear, nn.Conv2d):
                module.to(self.compute_dtype)
        return self.train(is_trained).to(memory_format=torch.channels_last)


def load_original(model: PeerModel, state: Mapping[str, np.ndarray]) -> None:
    """Load weights with the original's names, such as `original_names.to_original` gives.

    Raises:
      ValueError: an alias has another value than what it stands for.
      RuntimeError: lists the names that are missing, unused or of another shape.
    """
    for alias, source in ALIASES.items():
        if alias in state and not np.array_equal(state[alias], state.get(source, np.nan)):
            raise ValueError(f"{alias} should hold the same array as {source}.")
    arrays = {name: x for name, x in state.items() if name not in ALIASES and not is_ignored(name)}
    for query in [name for name in arrays if ".self.query." in name]:
        names = [query.replace("query", part) for part in ("query", "key", "value")]
        if all(name in arrays for name in names):
            fused = np.concatenate([arrays.pop(name) for name in names])
            arrays[query.replace("query", "qkv")] = fused
    model.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in arrays.items()})
