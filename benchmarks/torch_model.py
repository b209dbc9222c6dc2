"""ClipBERT in PyTorch, written to be fast: the model of the peer that ours is timed against.

Names and layouts of the weights are the original's, but for the fused projections of the attention, so
that `load_original` takes a checkpoint of either. `torch_trainer.py` makes losses and updates of it.

Parameters are float32; with compute_dtype bfloat16 the caller runs the model under `torch.autocast`.
Axis letters are those of `clipbert_jax/batch.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from benchmarks.torch_pixel_encoder import Bottleneck, NormedConv, PixelEncoder
from clipbert_jax.config import ClipBertConfig, FusionConfig
from clipbert_jax.models.heads import ClassifierHeadConfig, HeadConfig, PretrainingHeadConfig
from clipbert_jax.weights.names.original_names import ALIASES, IGNORED


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
    arrays = {
        name: x
        for name, x in state.items()
        if name not in ALIASES and not any(re.fullmatch(pattern, name) for pattern in IGNORED)
    }
    for query in [name for name in arrays if ".self.query." in name]:
        names = [query.replace("query", part) for part in ("query", "key", "value")]
        if all(name in arrays for name in names):
            fused = np.concatenate([arrays.pop(name) for name in names])
            arrays[query.replace("query", "qkv")] = fused
    model.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in arrays.items()})
