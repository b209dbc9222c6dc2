"""Prediction: the clips of one video and some texts in; the answers, and the clips they rest on, out.

`clipbert predict` and `serve` call it through `experiments.prediction.ask`: first `predict_clips`, then the
function for the task's `answer_form`. Each answer is an `Entry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.evaluation.score import score_batches
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.task import Task

NUM_ANSWERS = 5
"""Number of answers that are named for each question."""

Entry = dict[str, Any]
"""Answer about one text or question, as JSON values. All have `text`, `best_clip` (from 0) and
`change_without`: the change of the probability, or number, without each clip; empty for a single clip."""


class ClipPredictions(NamedTuple):
    """Predictions about one video: probabilities, or numbers for counting."""

    pooled: Float[np.ndarray, "n ..."]
    """Prediction of all clips together."""
    alone: Float[np.ndarray, "k n ..."]
    """Prediction of each clip alone."""
    changes: Float[np.ndarray, "m n ..."]
    """Prediction without each clip, minus that of all clips; a single clip has no changes."""


def predict_clips(
    scorer: Scorer,
    task: Task,
    frames: UInt8[np.ndarray, "k t h w 3"],
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
    *,
    num_answers: int = 0,
) -> ClipPredictions:
    """Return the predictions about the texts, or about one question with the options as texts.

    Args:
      scorer: model on its devices.
      task: task of the model.
      frames: clips of the video.
      text_ids: texts; for multiple choice the options of one question.
      text_mask: True at real tokens.
      num_answers: size of the answer vocabulary, if the task has one.
    """
    num_clips, videos = len(frames), [(frames[None], np.array([True]))]
    (reduced,) = score_batches(scorer, _scores_by_text, videos, text_ids, text_mask, num_clips=[num_clips])
    scores = jnp.asarray(np.moveaxis(reduced[num_clips]["scores"], 2, 1))
    is_text = jnp.asarray(text_mask.any(axis=-1))
    pooled = task.predict(scores, is_text[None], num_answers)[0]
    alone = task.predict(scores[0][:, None], jnp.tile(is_text, (num_clips, 1)), num_answers)
    # As `probing.evidence.changes_without_clips`, but in probabilities, of all texts at once.
    left_out = [jnp.delete(scores, clip, axis=1) for clip in range(num_clips if num_clips > 1 else 0)]
    without = [task.predict(others, is_text[None], num_answers)[0] - pooled for others in left_out]
    changes = np.stack(without) if without else np.zeros((0, *pooled.shape), pooled.dtype)
    return ClipPredictions(np.asarray(pooled), np.asarray(alone), changes)


def _scores_by_text(output: ClipBertOutput) -> dict[str, jax.Array]:
    return {"scores": jnp.moveaxis(output.scores, 1, 2)}


def match_entries(found: ClipPredictions, texts: Sequence[str]) -> list[Entry]:
    """Return the probability that each text matches, of all clips and of each clip alone."""
    return [
        {
            "text": text,
            "probability": float(found.pooled[n]),
            "clip_probabilities": tuple(found.alone[:, n].tolist()),
            "best_clip": int(found.alone[:, n].argmax()),
            "change_without": tuple(found.changes[:, n].tolist()),
        }
        for n, text in enumerate(texts)
    ]


def choice_entry(found: ClipPredictions, question: str, options: Sequence[str]) -> Entry:
    """Return the chosen option, and the probability of each; those of a clip add up to 1.

    The best clip gives the choice the highest probability.
    """
    chosen = int(found.pooled.argmax())
    return {
        "text": question,
        "choice": options[chosen],
        "choice_index": chosen,
        "options": [
            {
                "option": option,
                "probability": float(found.pooled[place]),
                "clip_probabilities": found.alone[:, place].tolist(),
            }
            for place, option in enumerate(options)
        ],
        "best_clip": int(found.alone[:, chosen].argmax()),
        "change_without": tuple(found.changes[:, chosen].tolist()),
    }


def answer_entries(found: ClipPredictions, questions: Sequence[str], answers: Sequence[str]) -> list[Entry]:
    """Return the answer to each question from a vocabulary, the best `answers`, and those of single clips.

    `probability_of_answer` is what a clip gives to the answer of all clips; the best clip gives it most.
    Probabilities of an open question add up to 1; those of an image question are independent.
    """
    entries = []
    for n, question in enumerate(questions):
        pooled, alone = found.pooled[n], found.alone[:, n]
        best: list[int] = np.argsort(-pooled, kind="stable")[:NUM_ANSWERS].tolist()
        named = [{"answer": answers[a], "probability": float(pooled[a])} for a in best]
        entries.append(
            {
                **named[0],
                "text": question,
                "answers": named,
                "clips": [
                    {
                        "answer": answers[int(clip.argmax())],
                        "probability": float(clip.max()),
                        "probability_of_answer": float(clip[best[0]]),
                    }
                    for clip in alone
                ],
                "best_clip": int(alone[:, best[0]].argmax()),
                "change_without": tuple(found.changes[:, n, best[0]].tolist()),
            }
        )
    return entries


def count_entries(
    found: ClipPredictions, questions: Sequence[str], task: Task, text_mask: Bool[np.ndarray, "n l"]
) -> list[Entry]:
    """Return the number for each question: rounded, and limited to the range of the task, and unrounded.

    The number of the best clip is nearest to that of all clips.
    """
    counts = task.decisions(found.pooled[None], np.any(text_mask, axis=-1)[None])
    return [
        {
            "text": question,
            "count": int(counts[n]),
            "count_unrounded": float(found.pooled[n]),
            "clip_counts": tuple(found.alone[:, n].tolist()),
            "best_clip": int(np.abs(found.alone[:, n] - found.pooled[n]).argmin()),
            "change_without": tuple(found.changes[:, n].tolist()),
        }
        for n, question in enumerate(questions)
    ]
