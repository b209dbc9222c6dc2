"""Prediction: the clips of one video and some texts in; the answers, and the clips they rest on, out.

`clipbert predict`, `probe` and `serve` call it. There is a function for each `Task.answer_form`:
`match_texts`, `choose_option`, `answer_questions` and `count_questions`. All build on `predict_clips`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipbert_jax.evaluation.score import score_all_pairs
from clipbert_jax.evaluation.scorer import Scorer
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.task import Task

NUM_ANSWERS = 5
"""Number of answers that are named for each question."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextMatch:
    """Match of one text with one video."""

    text: str
    probability: float
    """Probability of a match after the clips are pooled."""
    clip_probabilities: tuple[float, ...]
    """Probability of each clip alone."""
    best_clip: int
    """The clip with the highest probability, from 0."""
    change_without: tuple[float, ...]
    """Change of the probability without each clip; empty for a single clip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionChoice:
    """Option that is chosen for one video."""

    choice_index: int
    probabilities: tuple[float, ...]
    """Probability of each option after the clips are pooled; they add up to 1."""
    clip_probabilities: tuple[tuple[float, ...], ...]
    """Probabilities of all options for each clip alone."""
    best_clip: int
    """The clip that gives the choice the highest probability, from 0."""
    change_without: tuple[float, ...]
    """Change of the choice's probability without each clip; empty for a single clip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PossibleAnswer:
    """An answer and its probability."""

    answer: str
    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipAnswer(PossibleAnswer):
    """Answer of one clip alone."""

    probability_of_answer: float
    """Probability that the clip gives to the answer of all clips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswer:
    """The answer to one question about one video."""

    text: str
    """The question."""
    answers: tuple[PossibleAnswer, ...]
    """The best ones, the answer first."""
    clips: tuple[ClipAnswer, ...]
    best_clip: int
    """The clip that gives the answer the highest probability, from 0."""
    change_without: tuple[float, ...]
    """Change of the answer's probability without each clip; empty for a single clip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountAnswer:
    """The number that answers one question about one video."""

    text: str
    """The question."""
    count: int
    """Rounded, and limited to the range of the task."""
    count_unrounded: float
    clip_counts: tuple[float, ...]
    """Number of each clip alone, unrounded."""
    best_clip: int
    """The clip whose number is nearest to that of all clips, from 0."""
    change_without: tuple[float, ...]
    """Change of `count_unrounded` without each clip; empty for a single clip."""


Pooled = Float[np.ndarray, "n *answers"]
Alone = Float[np.ndarray, "k n *answers"]
Changes = Float[np.ndarray, "m n *answers"]


def predict_clips(
    scorer: Scorer,
    task: Task,
    frames: UInt8[np.ndarray, "k t h w 3"],
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
    *,
    num_answers: int = 0,
) -> tuple[Pooled, Alone, Changes]:
    """Return the prediction of all clips together, of each clip alone, and the change without each clip.

    A change is the prediction of the other clips minus that of all; a single clip has none.

    Args:
      scorer: model on its devices.
      task: task of the model.
      frames: clips of the video.
      text_ids: texts; for multiple choice the options of one question.
      text_mask: True at real tokens.
      num_answers: size of the answer vocabulary, if the task has one.
    """
    num_clips, videos = len(frames), [(frames[None], np.array([True]))]
    reduced = score_all_pairs(scorer, _scores_by_text, videos, text_ids, text_mask, num_clips=[num_clips])
    scores = jnp.asarray(np.moveaxis(reduced[num_clips]["scores"], 2, 1))
    is_text = jnp.asarray(text_mask.any(axis=-1))
    pooled = task.predict(scores, is_text[None], num_answers)[0]
    alone = task.predict(scores[0][:, None], jnp.tile(is_text, (num_clips, 1)), num_answers)
    # As `probing.evidence.changes_without_clips`, but in probabilities, of all texts at once.
    left_out = [jnp.delete(scores, clip, axis=1) for clip in range(num_clips if num_clips > 1 else 0)]
    without = [task.predict(others, is_text[None], num_answers)[0] - pooled for others in left_out]
    changes = np.stack(without) if without else np.zeros((0, *pooled.shape), pooled.dtype)
    return np.asarray(pooled), np.asarray(alone), changes


def _scores_by_text(output: ClipBertOutput) -> dict[str, jax.Array]:
    return {"scores": jnp.moveaxis(output.scores, 1, 2)}


def match_texts(
    scorer: Scorer,
    task: Task,
    frames: UInt8[np.ndarray, "k t h w 3"],
    texts: Sequence[str],
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
) -> list[TextMatch]:
    """Score texts against one video's clips, in the order given; arguments as in `predict_clips`."""
    pooled, alone, changes = predict_clips(scorer, task, frames, text_ids, text_mask)
    return [
        TextMatch(
            text=text,
            probability=float(pooled[n]),
            clip_probabilities=tuple(alone[:, n].tolist()),
            best_clip=int(alone[:, n].argmax()),
            change_without=tuple(changes[:, n].tolist()),
        )
        for n, text in enumerate(texts)
    ]


def choose_option(
    scorer: Scorer,
    task: Task,
    frames: UInt8[np.ndarray, "k t h w 3"],
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
) -> OptionChoice:
    """Choose between options, each written behind the question; arguments as in `predict_clips`."""
    pooled, alone, changes = predict_clips(scorer, task, frames, text_ids, text_mask)
    chosen = int(pooled.argmax())
    return OptionChoice(
        choice_index=chosen,
        probabilities=tuple(pooled.tolist()),
        clip_probabilities=tuple(tuple(clip) for clip in alone.tolist()),
        best_clip=int(alone[:, chosen].argmax()),
        change_without=tuple(changes[:, chosen].tolist()),
    )


def answer_questions(
    scorer: Scorer,
    task: Task,
    frames: UInt8[np.ndarray, "k t h w 3"],
    questions: Sequence[str],
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
    answers: Sequence[str],
) -> list[QuestionAnswer]:
    """Answer questions about one video from a vocabulary, in the order given.

    Arguments as in `predict_clips`; `answers` is the answer vocabulary. Probabilities of an open question add
    up to 1; those of an image question are independent.
    """
    pooled, alone, changes = predict_clips(
        scorer, task, frames, text_ids, text_mask, num_answers=len(answers)
    )
    return [
        _question_answer(question, pooled[n], alone[:, n], changes[:, n], answers)
        for n, question in enumerate(questions)
    ]


def _question_answer(
    question: str,
    pooled: Float[np.ndarray, " a"],
    alone: Float[np.ndarray, "k a"],
    changes: Float[np.ndarray, "m a"],
    answers: Sequence[str],
) -> QuestionAnswer:
    best: list[int] = np.argsort(-pooled, kind="stable")[:NUM_ANSWERS].tolist()
    return QuestionAnswer(
        text=question,
        answers=tuple(PossibleAnswer(answer=answers[a], probability=float(pooled[a])) for a in best),
        clips=tuple(
            ClipAnswer(
                answer=answers[int(clip.argmax())],
                probability=float(clip.max()),
                probability_of_answer=float(clip[best[0]]),
            )
            for clip in alone
        ),
        best_clip=int(alone[:, best[0]].argmax()),
        change_without=tuple(changes[:, best[0]].tolist()),
    )


def count_questions(
    scorer: Scorer,
    task: Task,
    frames: UInt8[np.ndarray, "k t h w 3"],
    questions: Sequence[str],
    text_ids: Int[np.ndarray, "n l"],
    text_mask: Bool[np.ndarray, "n l"],
) -> list[CountAnswer]:
    """Answer questions about one video with numbers, in the order given; arguments as in `predict_clips`."""
    pooled, alone, changes = predict_clips(scorer, task, frames, text_ids, text_mask)
    counts = task.decisions(pooled[None], np.any(text_mask, axis=-1)[None])
    return [
        CountAnswer(
            text=question,
            count=int(counts[n]),
            count_unrounded=float(pooled[n]),
            clip_counts=tuple(alone[:, n].tolist()),
            best_clip=int(np.abs(alone[:, n] - pooled[n]).argmin()),
            change_without=tuple(changes[:, n].tolist()),
        )
        for n, question in enumerate(questions)
    ]
