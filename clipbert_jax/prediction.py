"""Prediction: one video and some texts in, the probability that each text matches, and which clip said so."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.evaluation import MatchTask, score_all_pairs
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.scorer import Scorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextMatch:
    """How well one text matches one video."""

    text: str
    probability: float
    """Probability of a match after the clips are pooled."""
    clip_probabilities: tuple[float, ...]
    """What each clip says when it is asked alone."""
    best_clip: int
    """The clip with the highest probability, from 0."""


def match_texts(
    scorer: Scorer,
    task: MatchTask,
    frames: UInt8[np.ndarray, "k t h w 3"],
    texts: list[str],
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
) -> list[TextMatch]:
    """Score `texts` against one video's clips, in the order given."""
    num_clips, videos = len(frames), [(frames[None], np.array([True]))]
    reduced = score_all_pairs(scorer, _scores_by_text, videos, text_ids, text_mask, num_clips=[num_clips])
    scores = np.moveaxis(reduced[num_clips]["scores"], 2, 1)
    pooled = _probability(task, scores)[0]
    by_clip = _probability(task, scores[0][:, None])
    return [
        TextMatch(
            text=text,
            probability=float(pooled[n]),
            clip_probabilities=tuple(float(p) for p in by_clip[:, n]),
            best_clip=int(by_clip[:, n].argmax()),
        )
        for n, text in enumerate(texts)
    ]


def _scores_by_text(output: ClipBertOutput) -> dict[str, jax.Array]:
    return {"scores": jnp.moveaxis(output.scores, 1, 2)}


def _probability(task: MatchTask, scores: Float[np.ndarray, "b k n a"]) -> Float[np.ndarray, "b n"]:
    return np.asarray(jax.nn.sigmoid(task.match_logit(jnp.asarray(scores))))
