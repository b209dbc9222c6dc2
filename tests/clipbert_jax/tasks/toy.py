"""Batches and scores that tests of tasks make up; only `small_model` has weights."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from clipbert_jax.batch import Batch
from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import ClipBert, ClipBertOutput
from clipbert_jax.tasks.task import Task
from clipbert_jax.weights.flat import load_flat_parameters, parameter_shapes


def make_batch(labels, *, text_valid=None, example_mask=None, token_labels=None, seed: int = 0) -> Batch:
    """Return a batch of 2 clips, 32 x 64 pixels; all texts are there unless `text_valid` says which."""
    labels = np.asarray(labels)
    text_valid = np.ones(labels.shape[:2], bool) if text_valid is None else np.asarray(text_valid)
    b, n = text_valid.shape
    length = 4 if token_labels is None else np.shape(token_labels)[-1]
    random = np.random.default_rng(seed)
    return Batch(
        frames=random.integers(0, 256, (b, 2, 1, 32, 64, 3), np.uint8),
        text_ids=random.integers(1, 32, (b, n, length), np.int32),
        text_mask=np.ones((b, n, length), bool),
        text_valid=text_valid,
        labels=labels,
        example_mask=np.ones(b, bool) if example_mask is None else np.asarray(example_mask),
        token_labels=None if token_labels is None else np.asarray(token_labels),
    )


def make_output(scores, token_scores=None) -> ClipBertOutput:
    """Return what a model would with scores [b k n a] and token scores [b k n l vocab]."""
    scores = jnp.asarray(scores, jnp.float32)
    return ClipBertOutput(
        scores=scores,
        token_scores=None if token_scores is None else jnp.asarray(token_scores, jnp.float32),
        pooled=jnp.zeros((*scores.shape[:3], 8)),
    )


def total_loss(task: Task, output: ClipBertOutput, batch: Batch) -> jax.Array:
    """Return what a train step minimises."""
    losses, weights = task.losses(output, batch), task.loss_weights(batch)
    assert losses.keys() == weights.keys()
    means = [jnp.sum(losses[name] * w) / jnp.maximum(jnp.sum(w), 1e-9) for name, w in weights.items()]
    return sum(means, jnp.zeros(()))


def small_model(task: Task) -> ClipBert:
    """Return a model without dropout; a frame of `make_batch` has 2 x 4 visual tokens."""
    tiny = ClipBertConfig.tiny(vocab_size=32)
    pixels = dataclasses.replace(tiny.pixel_encoder, stem_width=8, stage_width=16)
    fusion = dataclasses.replace(tiny.fusion, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    config = dataclasses.replace(tiny, pixel_encoder=pixels, fusion=fusion)
    model = nnx.eval_shape(lambda: ClipBert(config, task.head, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(0)
    # Positive, because there are variances among them.
    weights = {name: random.uniform(0.1, 0.5, shape) for name, shape in parameter_shapes(model).items()}
    signs = {name: random.choice([-1, 1], w.shape) if w.ndim > 1 else 1 for name, w in weights.items()}
    load_flat_parameters(model, {name: signs[name] * weights[name] for name in weights})
    return model
