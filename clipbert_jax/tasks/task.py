"""The contract of a task: all that the rest of the code asks of it.

A task is a frozen dataclass of settings in a file of its own. The train step minimises its losses;
evaluation, prediction and probing read its answers. Few other files look at its class.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from clipbert_jax.batch import Batch
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.models.consensus import Consensus, pool_clips
from clipbert_jax.models.heads import ClassifierHeadConfig, HeadConfig

Scores = Float[Array, "b k n a"]
"""Scores of every clip."""

Answers = Float[Array, "b n *answers"]
"""Output of `Task.predict`."""

Losses = dict[str, Float[Array, "..."]]
"""Losses by name. The step minimises the sum, over the names, of the weighted means."""

ExampleForm = Literal[
    "matched_captions", "options", "open_questions", "soft_questions", "counts", "masked_captions"
]
"""Kind of training examples; `data_pipelines.examples` makes them."""

AnswerForm = Literal["match", "choice", "answers", "count"]
"""Kind of answer: whether each text matches a video, one option, one entry of a vocabulary, or a number."""

ProbeUnit = Literal["log_odds", "logit", "number"]
"""Unit of the probed number. `log_odds`: its sigmoid is the probability. `logit`: only differences between
texts have a meaning."""


_DECISIONS = ("example_form", "answer_form", "evaluations", "probe_question", "output_meaning")
"""Class variables without a default, which a task with a name must set."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """Settings of a task, its losses, and the meaning of its scores."""

    consensus: Consensus = "mean"
    """Rule that pools the scores of the clips."""

    name: ClassVar[str]
    """Name in configs and results."""
    example_form: ClassVar[ExampleForm]
    """Kind of its training examples."""
    answer_form: ClassVar[AnswerForm]
    """Kind of its answers."""
    evaluations: ClassVar[tuple[str, ...]]
    """Names of the evaluations that its scores serve, its own first."""
    one_clip: ClassVar[Literal["start", "middle"]] = "start"
    """Place of a single clip by the original's rule: retrieval sees the middle of a video."""
    probe_unit: ClassVar[ProbeUnit] = "log_odds"
    """Unit of `probe_score`."""
    probe_question: ClassVar[str]
    """Question that `probe_score` answers; `{answer}` stands for the probed answer."""
    output_name: ClassVar[str] = "probabilities"
    """Name of the output of `predict` in an exported program."""
    output_meaning: ClassVar[str]
    """Meaning of that output; `{task}` stands for the task."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        missing = [name for name in _DECISIONS if not hasattr(cls, name)]
        if hasattr(cls, "name") and missing:
            raise TypeError(f"the task {cls.__name__} lacks {', '.join(missing)}")

    @property
    @abc.abstractmethod
    def head(self) -> HeadConfig:
        """Head that the task needs."""

    @property
    def num_texts(self) -> int | None:
        """Number of texts per video in training; None if the data decide."""
        return None

    @property
    def num_sampled_tokens(self) -> int:
        """Number of visual tokens that training keeps, drawn at random; 0 keeps all."""
        return 0

    @abc.abstractmethod
    def losses(self, output: ClipBertOutput, batch: Batch) -> Losses:
        """Return the unreduced losses."""

    @abc.abstractmethod
    def loss_weights(self, batch: Batch) -> Losses:
        """Return the weights of the losses, of the same names and shapes: 0 where there is nothing to learn.

        They depend on the batch alone, so that the parts of an accumulated batch can be weighed first.
        """

    @abc.abstractmethod
    def predict(self, scores: Scores, is_text: Bool[Array, "b n"], num_answers: int) -> Answers:
        """Pool the clips and return the task's answers, as probabilities where it has such.

        Args:
          scores: scores of every clip.
          is_text: False at texts that are padding.
          num_answers: size of the answer vocabulary; further outputs of the head mean nothing.
        """

    @abc.abstractmethod
    def probe_score(self, scores: Scores, answer: int, num_answers: int) -> Float[Array, "b n"]:
        """Pool the clips and return the number that a probe explains.

        Args:
          scores: scores of every clip.
          answer: index of the probed answer in the answer vocabulary, if the task has one.
          num_answers: size of that vocabulary.
        """

    def decisions(self, predicted: np.ndarray, is_text: Bool[np.ndarray, "m n"]) -> np.ndarray:
        """Return what follows from the output of `predict`: by default the best text of each video."""
        return np.where(is_text, predicted, -np.inf).argmax(axis=-1)

    def label_shapes(self, num_videos: int, num_texts: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shapes and data types of the labels of a batch, to trace a program without data."""
        return {"labels": jax.ShapeDtypeStruct((num_videos, num_texts), jnp.int32)}

    def check(self) -> None:  # noqa: B027 (most tasks accept every setting)
        """Refuse settings that mean nothing.

        Raises:
          UserError: there is one.
        """

    def as_original(self, num_answers: int) -> Task:
        """Return the task with the original's behaviour instead of this project's corrections.

        Args:
          num_answers: number of outputs of the original's head, for a task with an answer vocabulary.
        """
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerTask(Task):
    """A task that answers from a vocabulary of the data."""

    num_answers: int = 0
    """Number of answers; 0 takes as many as the answer vocabulary of the data has."""
    num_questions: int = 1
    """Largest number of questions about one video in a batch."""

    answer_form = "answers"
    probe_question = "How sure the model is that the answer is “{answer}”"
    output_meaning = "of each answer of answers.json"

    @property
    def num_texts(self) -> int:
        """Questions of one video."""
        return self.num_questions

    @property
    def head(self) -> ClassifierHeadConfig:
        """Head with a score per answer."""
        return ClassifierHeadConfig(num_outputs=self.num_answers)

    def answer_logits(self, scores: Scores) -> Float[Array, "b n a"]:
        """Pool the clips and return a logit for each answer: the highest is the answer."""
        return pool_clips(scores, self.consensus)

    def answer_probabilities(self, logits: Float[Array, "*rows a"]) -> Float[Array, "*rows a"]:
        """Return the probability of each answer: one of them is right."""
        return jax.nn.softmax(logits, axis=-1)

    def predict(self, scores: Scores, is_text: Bool[Array, "b n"], num_answers: int) -> Answers:
        """Return the probability of each answer [b n a]."""
        return self.answer_probabilities(self.answer_logits(scores)[..., :num_answers])

    def decisions(self, predicted: np.ndarray, is_text: Bool[np.ndarray, "m n"]) -> np.ndarray:
        """Return the best answer to each question."""
        return predicted.argmax(axis=-1)[is_text]

    def with_num_answers(self, num_answers: int) -> AnswerTask:
        """Return the task with `num_answers` filled in if it is 0."""
        return dataclasses.replace(self, num_answers=num_answers) if self.num_answers == 0 else self

    def as_original(self, num_answers: int) -> Task:
        """Return the task with as many outputs as the original's head."""
        return dataclasses.replace(self, num_answers=num_answers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchTask(Task):
    """A task whose scores say how well a text matches a video."""

    answer_form = "match"
    one_clip = "middle"
    probe_question = "How sure the model is that the text matches the video"
    output_meaning = "that each text matches its video"

    @property
    def ranking_rule(self) -> Literal["corrected", "original"]:
        """Rule that ranks videos and texts."""
        return "corrected"

    @abc.abstractmethod
    def match_logit(self, scores: Scores) -> Float[Array, "b n"]:
        """Pool the clips and return the logit that ranks texts and videos."""

    def choice_logits(self, scores: Scores) -> Float[Array, "b n"]:
        """Return a logit for each option: the best match is the answer, as in MSRVTT-MC."""
        return self.match_logit(scores)

    def predict(self, scores: Scores, is_text: Bool[Array, "b n"], num_answers: int) -> Answers:
        """Return the probability that each text matches [b n]."""
        return jax.nn.sigmoid(self.match_logit(scores))

    def probe_score(self, scores: Scores, answer: int, num_answers: int) -> Float[Array, "b n"]:
        """Return the log odds of a match."""
        return self.match_logit(scores)
