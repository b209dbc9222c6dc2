"""Layers of the embeddings, the fusion and the heads: dense layers, attention, norms.

They follow `text_encoder.py`, `visual_embedding.py`, `fusion.py` and `heads.py` of `models/`. Elementwise
layers are counted in numbers that they read and write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from clipbert_jax.costs.sizes import Sizes
from clipbert_jax.costs.work import NO_WORK, Counter, LayerCost, Product, Work
from clipbert_jax.models.heads import (
    ClassifierHeadConfig,
    HeadConfig,
    PretrainingHeadConfig,
    RegressionHeadConfig,
)

_LOGIT_BYTES = 4
"""Logits over the vocabulary leave in float32."""


def embedding_layers(counter: Counter, sizes: Sizes) -> Iterator[LayerCost]:
    """Yield the visual embedding (if there are frames), the text embedding, and what pairs the two."""
    config = sizes.config.fusion
    d = config.hidden_size
    visual = sizes.num_clips * sizes.num_visual_tokens * d
    text = sizes.num_texts * sizes.shape.text_length * d
    pairs = sizes.num_pairs * sizes.sequence_length * d
    if sizes.shape.encodes_video:
        yield _visual_embedding(counter, sizes)
    num_rows = config.vocab_size + config.max_text_length + config.num_token_types
    yield counter.elementwise(
        "embeddings.text",
        "embeddings",
        forward=text,
        backward=2 * text,
        num_looked_up=text,
        num_parameters=(num_rows + 2) * d,
    )
    # Two gradients come from the first layer, of its products and of its residual.
    yield counter.elementwise(
        "embeddings.pairs", "embeddings", forward=visual + text + pairs, backward=visual + text + 2 * pairs
    )


def _visual_embedding(counter: Counter, sizes: Sizes) -> LayerCost:
    config = sizes.config.fusion
    d, visual = config.hidden_size, sizes.num_clips * sizes.num_visual_tokens * config.hidden_size
    return counter.elementwise(
        "embeddings.visual",
        "embeddings",
        # Cells that are not sampled are not read, but receive zeros as gradient.
        forward=sizes.shape.num_frames * visual + visual,
        backward=sizes.num_frames * sizes.num_cells * d + 2 * visual,
        num_parameters=(config.max_grid_rows + config.max_grid_columns + 1 + 2) * d,
    )


def fusion_layers(counter: Counter, sizes: Sizes, head: HeadConfig) -> Iterator[LayerCost]:
    """Yield the parts of every layer."""
    num_layers, num_kept = sizes.config.fusion.num_layers, sizes.sequence_length
    for index in range(num_layers):
        if index == num_layers - 1 and counter.assumptions.trimmed_last_layer:
            num_kept = sizes.shape.text_length if isinstance(head, PretrainingHeadConfig) else 1
        yield from _fusion_layer(counter, sizes, f"fusion.{index}", num_kept)


def _fusion_layer(counter: Counter, sizes: Sizes, name: str, num_kept: int) -> Iterator[LayerCost]:
    """Yield the parts of one layer, of which the first `num_kept` tokens of each sequence are read."""
    config = sizes.config.fusion
    d, inner = config.hidden_size, config.intermediate_size
    num_tokens, num_kept_tokens = sizes.num_pairs * sizes.sequence_length, sizes.num_pairs * num_kept

    def dense(part: str, num_rows: int, *widths: int, **options: Any) -> LayerCost:
        return counter.product(_dense(f"{name}.{part}", "fusion", num_rows, *widths, **options))

    if num_kept == sizes.sequence_length:
        yield dense("qkv", num_tokens, d, 3 * d)
    else:
        yield dense("query", num_kept_tokens, d, d)
        yield dense("key_value", num_tokens, d, 2 * d)
    yield from _attention(counter, sizes, name, num_kept)
    # The norm after it adds a bias as it reads.
    yield dense("attention_output", num_kept_tokens, d, d, has_epilogue=False)
    yield _residual_norm(counter, f"{name}.attention_layer_norm", num_kept_tokens, d)
    yield dense("intermediate", num_kept_tokens, d, inner, num_saved=1)
    yield dense("output", num_kept_tokens, inner, d, has_epilogue=False, num_gates=1)
    yield _residual_norm(counter, f"{name}.output_layer_norm", num_kept_tokens, d)


def _dense(
    name: str, stage: str, num_rows: int, in_features: int, out_features: int, **options: Any
) -> Product:
    return Product(
        name=name,
        stage=stage,
        num_rows=num_rows,
        in_features=in_features,
        out_features=out_features,
        **options,
    )


def _residual_norm(counter: Counter, name: str, num_rows: int, d: int) -> LayerCost:
    """Return the layer norm of a sum, which training keeps; on the way back two gradients meet here."""
    num_arrays = 4 if counter.is_training else 3
    return counter.elementwise(
        name, "fusion", forward=num_arrays * num_rows * d, backward=4 * num_rows * d, num_parameters=2 * d
    )


def _attention(counter: Counter, sizes: Sizes, name: str, num_queries: int) -> Iterator[LayerCost]:
    """Yield queries times keys with the softmax, and probabilities times values.

    Both sides of a product have a gradient. Fused attention computes the scores a second time on the way
    back, which is not counted.
    """
    d, num_pairs, length = sizes.config.fusion.hidden_size, sizes.num_pairs, sizes.sequence_length
    flops = 2 * num_pairs * num_queries * length * d
    # Queries and keys, then outputs and values.
    both = num_pairs * (num_queries + length) * d * counter.element_bytes
    square = num_pairs * sizes.config.fusion.num_heads * num_queries * length * counter.element_bytes
    square *= counter.assumptions.materialized_attention
    # The softmax reads and writes once; its derivative reads probabilities and a gradient, and writes one.
    scores = Work(flops=flops, bytes=both + square, pass_bytes=2 * square)
    scores_gradient = Work(flops=2 * flops, bytes=2 * (both + square), pass_bytes=3 * square)
    context = Work(flops=flops, bytes=both + square)
    context_gradient = Work(flops=2 * flops, bytes=2 * (both + square))
    for part, forward, gradient in (
        ("attention_scores", scores, scores_gradient),
        ("attention_context", context, context_gradient),
    ):
        backward = gradient if counter.is_training else NO_WORK
        yield LayerCost(name=f"{name}.{part}", stage="fusion", forward=forward, input_gradient=backward)


def head_layers(counter: Counter, sizes: Sizes, head: HeadConfig) -> Iterator[LayerCost]:
    """Yield the pooler and the layers of a head."""
    d, num_pairs = sizes.config.fusion.hidden_size, sizes.num_pairs

    def dense(part: str, in_features: int, out_features: int) -> LayerCost:
        return counter.product(_dense(f"head.{part}", "head", num_pairs, in_features, out_features))

    yield dense("pooler", d, d)
    match head:
        case ClassifierHeadConfig():
            yield dense("hidden", d, 2 * d)
            yield dense("output", 2 * d, head.num_outputs)
        case RegressionHeadConfig():
            yield dense("hidden", d, d)
            yield _batch_norm(counter, num_pairs, d)
            yield dense("output", d, head.num_outputs)
        case PretrainingHeadConfig():
            yield from _masked_lm(counter, sizes)
            yield dense("matching", d, 2)


def _batch_norm(counter: Counter, num_rows: int, d: int) -> LayerCost:
    """Return the regression head's, whose statistics are parameters that are not trained."""
    norm = counter.elementwise(
        "head.norm", "head", forward=2 * num_rows * d, backward=3 * num_rows * d, num_parameters=2 * d
    )
    return dataclasses.replace(norm, num_parameters=4 * d)


def _masked_lm(counter: Counter, sizes: Sizes) -> Iterator[LayerCost]:
    """Yield what scores the vocabulary at every text token, and in training the loss."""
    d, vocab_size = sizes.config.fusion.hidden_size, sizes.config.fusion.vocab_size
    num_rows, name = sizes.num_pairs * sizes.shape.text_length, "head.masked_lm"
    yield counter.product(_dense(f"{name}.transform", "head", num_rows, d, d, num_saved=1))
    # The derivative of the GELU before the norm is in its backward pass.
    yield counter.elementwise(
        f"{name}.layer_norm",
        "head",
        forward=2 * num_rows * d,
        backward=4 * num_rows * d,
        num_parameters=2 * d,
    )
    logit_bytes = max(_LOGIT_BYTES, counter.element_bytes)
    # Its kernel is the word table, counted with the text embedding.
    yield counter.product(
        _dense(
            f"{name}.decoder",
            "head",
            num_rows,
            d,
            vocab_size,
            num_parameters=vocab_size,
            output_bytes=logit_bytes,
        )
    )
    if counter.is_training:
        logits = num_rows * vocab_size * logit_bytes
        forward, gradient = Work(bytes=logits), Work(bytes=2 * logits)
        yield LayerCost(name=f"{name}.loss", stage="head", forward=forward, input_gradient=gradient)
