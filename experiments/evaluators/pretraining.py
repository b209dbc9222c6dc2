"""Evaluates pretraining: guessing hidden words, and telling a video's caption from that of another.

The hidden words and the other captions depend on the split alone, so all models get the same questions. (The
original draws anew at each validation.)
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from clipbert_jax.evaluation.score import Reduced
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.pretraining import Pretraining
from data_pipelines.annotations.records import Caption
from data_pipelines.masking import MaskingVocabulary, mask_tokens
from data_pipelines.negatives import check_negatives, draw_negative
from experiments.evaluators.evaluator import QueryEvaluator, TextOptions, by_clip


class PretrainingEvaluator(QueryEvaluator):
    """Shows each video its caption and that of another video, both with hidden words."""

    record_kind = Caption
    headline = "mean_accuracy"

    def __init__(self, task: Pretraining, captions: Sequence[Caption], options: TextOptions) -> None:
        check_negatives(captions)
        self._task = task
        self._tokens = options.tokenizer.tokens
        vocabulary = MaskingVocabulary.from_tokens(self._tokens)
        all_ids, all_masks, all_labels = [], [], []
        for caption in captions:
            rng = np.random.default_rng(list(caption.id.encode()))
            ids, mask = options.encode([caption.text, draw_negative(captions, caption, rng).text])
            ids, labels = mask_tokens(ids, mask, vocabulary, task.masking, rng)
            all_ids.append(ids)
            all_masks.append(mask)
            all_labels.append(labels[0])
        super().__init__(captions, np.stack(all_ids), np.stack(all_masks))
        self._labels: Int[np.ndarray, "m l"] = np.stack(all_labels)

    @property
    def baseline(self) -> Mapping[str, float]:
        """Return the accuracy of guessing a match, and of the most frequent hidden word."""
        hidden = collections.Counter(self._labels[self._labels >= 0].tolist())
        words = {} if not hidden else {"masked_lm": 100 * hidden.most_common(1)[0][1] / hidden.total()}
        return {"matching": 50.0, **words}

    def all_texts(self) -> Iterator[str]:
        """Yield the captions."""
        return (caption.text for caption in self.records)

    def reduce(self, output: ClipBertOutput) -> dict[str, jax.Array]:
        """Return the guessed words of the right caption [p l], and the match logits of both [p 2]."""
        # A model may have more word embeddings than the vocabulary has words.
        logits = self._task.token_logits(output)[:, 0, :, : len(self._tokens)]
        words = jnp.argmax(logits, axis=-1)
        # Texts are cut to several lengths; no word is hidden after the end.
        num_cut = self._labels.shape[1] - words.shape[1]
        return {
            "words": jnp.pad(words, ((0, 0), (0, num_cut))),
            "match_logits": self._task.match_logit(output.scores),
            "clip_match_logits": by_clip(self._task.match_logit, output.scores)[:, :, 0],
        }

    def metrics_of(self, judged: Reduced, rows: Int[np.ndarray, " drawn"]) -> dict[str, float]:
        """Return the accuracies of both, in percent, and their mean."""
        is_hidden = self._labels[rows] >= 0
        is_match = judged["match_logits"][rows] > 0
        metrics = {"matching": 50 * float(is_match[:, 0].mean() + (~is_match[:, 1]).mean())}
        if is_hidden.any():
            is_right = judged["words"][rows] == self._labels[rows]
            metrics["masked_lm"] = 100 * float(is_right[is_hidden].mean())
        return {"mean_accuracy": sum(metrics.values()) / len(metrics), **metrics}

    def predictions(self, reduced: Reduced) -> Iterator[dict[str, Any]]:
        """Yield the hidden words with the guesses, and how well both captions match."""
        for row, caption in enumerate(self.records):
            hidden = np.flatnonzero(self._labels[row] >= 0)
            yield {
                "id": caption.id,
                "video_id": caption.video_id,
                "text": caption.text,
                "hidden": [self._tokens[token] for token in self._labels[row, hidden]],
                "guessed": [self._tokens[token] for token in reduced["words"][row, hidden]],
                "match_logit": float(reduced["match_logits"][row, 0]),
                "clip_match_logits": reduced["clip_match_logits"][row].tolist(),
                "match_logit_of_other_caption": float(reduced["match_logits"][row, 1]),
            }
