"""What evaluators make of scores, here made up: metrics, intervals, baselines, predictions, files."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.models.clipbert import ClipBertOutput
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.pretraining import Masking, Pretraining
from clipbert_jax.tasks.retrieval import Retrieval
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion
from data_pipelines.annotations.store import records_path, write_records
from data_pipelines.tokenizer import Tokenizer, build_vocab
from experiments.evaluators.answers import OpenQuestionEvaluator, SoftQuestionEvaluator
from experiments.evaluators.best_videos import BestVideos
from experiments.evaluators.count import CountEvaluator
from experiments.evaluators.evaluator import TextOptions
from experiments.evaluators.make_evaluator import make_evaluator
from experiments.evaluators.multiple_choice import MultipleChoiceEvaluator
from experiments.evaluators.pretraining import PretrainingEvaluator
from experiments.evaluators.retrieval import RetrievalEvaluator

WORDS = [f"word{n}" for n in range(20)]
OPTIONS = TextOptions(tokenizer=Tokenizer(build_vocab([" ".join(WORDS)])), max_length=8)

CAPTIONS = [
    Caption(id=id_, video_id=video_id, text=text)
    for id_, video_id, text in (
        ("a0", "a", "word0 word1"),
        ("b0", "b", "word2 word3"),
        ("a1", "a", "word4 word5"),
        ("c0", "c", "word6 word7"),
    )
]


def check_parts_agree(evaluator: Any, reduced: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Check what holds for every evaluator, and return the predictions as they are read back from JSON."""
    evaluation = evaluator.evaluate(reduced)
    assert evaluation.metrics == evaluator.metrics(reduced)
    assert evaluation.intervals.keys() == evaluation.metrics.keys() >= evaluator.baseline.keys()
    assert evaluator.headline in evaluation.metrics
    for name, (low, high) in evaluation.intervals.items():
        assert low <= evaluation.metrics[name] <= high
    broken = {
        name: np.full_like(values, np.nan) if np.issubdtype(values.dtype, np.floating) else values
        for name, values in reduced.items()
    }
    with pytest.raises(ValueError, match="not finite"):
        evaluator.metrics(broken)
    predictions = [json.loads(json.dumps(prediction)) for prediction in evaluator.predictions(reduced)]
    assert len(predictions) == len(evaluator.records)
    return predictions


def output(scores: Any) -> ClipBertOutput:
    """Return what a model says, given its scores [b k n a]."""
    scores = jnp.asarray(scores, jnp.float32)
    return ClipBertOutput(scores=scores, token_scores=None, pooled=jnp.zeros((*scores.shape[:3], 1)))


LOGITS = np.array(  # of videos a b c with texts a0 b0 a1 c0
    [
        [3.0, 2.0, -1.0, 0.0],
        [1.0, 1.0, 0.0, -2.0],
        [2.0, 0.0, 1.0, -1.0],
    ]
)


def retrieval_reduced(logits: np.ndarray = LOGITS, num_best: int = 10) -> dict[str, np.ndarray]:
    """Return what is kept of two clips, one that says less than both together and one that says more."""
    best = BestVideos(np.array([0, 1, 0, 2]), num_best)
    for some in (logits[:2], logits[2:]):
        best.add({"logits": some, "clip_logits": np.stack([some - 1, some + 1], axis=-1)})
    return best.reduced()


def test_retrieval_ranks_videos_and_captions():
    evaluator = RetrievalEvaluator(Retrieval(), CAPTIONS, OPTIONS)
    assert evaluator.video_ids == ("a", "b", "c")
    metrics = evaluator.metrics(retrieval_reduced())
    # Ranks of the texts' videos 1 2 3 2, of the videos' texts 1 2 4 (a0 ties with b0, so it comes first).
    assert metrics["text_to_video/r1"] == 25.0
    assert metrics["text_to_video/r5"] == 100.0
    assert metrics["text_to_video/mean_rank"] == 2.0
    assert metrics["text_to_video/mean_recall"] == 75.0
    assert metrics["video_to_text/r1"] == pytest.approx(100 / 3)
    assert metrics["video_to_text/mean_rank"] == pytest.approx(7 / 3)
    assert evaluator.baseline == {
        "text_to_video/r1": pytest.approx(100 / 3),
        "text_to_video/r5": 100.0,
        "text_to_video/r10": 100.0,
    }


def test_retrieval_predictions_name_the_best_videos_and_the_right_one():
    evaluator = RetrievalEvaluator(Retrieval(), CAPTIONS, OPTIONS)
    predictions = check_parts_agree(evaluator, retrieval_reduced(num_best=1))
    assert [(p["id"], p["video_id"], p["rank"]) for p in predictions] == [
        ("a0", "a", 1), ("b0", "b", 2), ("a1", "a", 3), ("c0", "c", 2),
    ]  # fmt: skip
    assert [[video["video_id"] for video in p["videos"]] for p in predictions] == [
        ["a"], ["a", "b"], ["c", "a"], ["a", "c"],
    ]  # fmt: skip
    assert predictions[2]["text"] == "word4 word5"
    assert predictions[2]["videos"][1] == {
        "video_id": "a",
        "match_logit": -1.0,
        "clip_match_logits": [-2.0, 0.0],
    }


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_the_best_videos_are_those_of_the_whole_matrix(batch_size):
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 9, (50, 7)).astype(np.float32)  # with ties
    clip_logits = rng.standard_normal((50, 7, 3), np.float32)
    own = rng.integers(0, 50, 7)
    best = BestVideos(own, 4)
    for first in range(0, 50, batch_size):
        rows = slice(first, first + batch_size)
        best.add({"logits": logits[rows], "clip_logits": clip_logits[rows]})
    reduced = best.reduced()
    expected = np.concatenate([np.argsort(-logits, axis=0, kind="stable")[:4], own[None]]).T
    np.testing.assert_array_equal(reduced["logits"], logits)
    np.testing.assert_array_equal(reduced["videos"], expected)
    np.testing.assert_array_equal(reduced["clip_logits"], clip_logits[expected, np.arange(7)[:, None]])


def test_retrieval_writes_the_score_matrix_with_its_names(tmp_path):
    evaluator = RetrievalEvaluator(Retrieval(), CAPTIONS, OPTIONS)
    (path,) = evaluator.write_extras(tmp_path, "test-2-clips", retrieval_reduced())
    with np.load(path) as file:
        np.testing.assert_array_equal(file["match_logits"], LOGITS)
        assert file["video_ids"].tolist() == ["a", "b", "c"]
        assert file["caption_ids"].tolist() == ["a0", "b0", "a1", "c0"]
        assert file["video_of_caption"].tolist() == [0, 1, 0, 2]


def test_retrieval_by_the_released_rule_rounds_and_takes_the_last_caption_of_a_video():
    # Of a0 and b0, video b says more; as probabilities of 4 decimals a and b are equal, and a comes first.
    logits = np.array([[11.0, 11.3, 1.0, 0.0], [11.2, 11.4, 0.0, 0.0], [-1.0, -1.0, -1.0, 5.0]])
    ours = RetrievalEvaluator(Retrieval(), CAPTIONS, OPTIONS)
    released = RetrievalEvaluator(Retrieval(ranking_rule="original"), CAPTIONS, OPTIONS)
    rank = {
        name: [p["rank"] for p in evaluator.predictions(retrieval_reduced(logits))]
        for name, evaluator in (("corrected", ours), ("original", released))
    }
    assert rank == {"corrected": [2, 1, 1, 1], "original": [1, 2, 1, 1]}
    # Video a is asked for a0, b0, a1, c0: its last caption a1 is third, its best is a0, after b0.
    assert ours.metrics(retrieval_reduced(logits))["video_to_text/mean_rank"] == pytest.approx(
        (2 + 1 + 1) / 3
    )
    assert released.metrics(retrieval_reduced(logits))["video_to_text/mean_rank"] == pytest.approx(
        (3 + 2 + 1) / 3
    )


def test_retrieval_keeps_match_logits_of_all_clips_and_of_each():
    scores = np.random.default_rng(0).normal(size=(2, 3, 4, 2))
    reduced = RetrievalEvaluator(Retrieval(consensus="max"), CAPTIONS, OPTIONS).reduce(output(scores))
    by_class = scores.max(axis=1)
    np.testing.assert_allclose(reduced["logits"], by_class[..., 1] - by_class[..., 0], rtol=1e-5)
    difference = scores[..., 1] - scores[..., 0]
    np.testing.assert_allclose(reduced["clip_logits"], np.moveaxis(difference, 1, 2), rtol=1e-5)


CHOICES = [
    MultipleChoice(id="0", video_id="a", question="word0 ?", options=("word1", "word2"), answer_index=1),
    MultipleChoice(id="1", video_id="b", question="", options=tuple(WORDS[:4]), answer_index=3),
    MultipleChoice(id="2", video_id="a", question="word5", options=("word6", "word7"), answer_index=0),
]


def test_an_option_that_is_none_is_never_chosen():
    evaluator = MultipleChoiceEvaluator(MultipleChoiceQA(), CHOICES, OPTIONS)
    logits = np.array([[-3.0, -2.0, 9.0, 9.0], [0.0, 1.0, 2.0, 3.0], [-3.0, -2.0, 9.0, 9.0]])
    reduced = {"logits": logits, "clip_logits": np.stack([logits, logits + 1], axis=-1)}
    assert evaluator.metrics(reduced) == {"accuracy": pytest.approx(200 / 3)}
    assert evaluator.baseline == {"accuracy": pytest.approx(100 * (1 / 2 + 1 / 4 + 1 / 2) / 3)}
    predictions = check_parts_agree(evaluator, reduced)
    assert [p["predicted_index"] for p in predictions] == [1, 3, 1]
    assert [p["is_right"] for p in predictions] == [True, True, False]
    assert predictions[0] == {
        "id": "0",
        "video_id": "a",
        "question": "word0 ?",
        "options": ["word1", "word2"],
        "answer_index": 1,
        "predicted_index": 1,
        "is_right": True,
        "logits": [-3.0, -2.0],
        "clip_logits": [[-3.0, -2.0], [-2.0, -1.0]],
    }


def test_a_matching_head_chooses_the_option_that_matches_best():
    scores = np.zeros((3, 2, 4, 2))
    scores[:, :, 2, 1] = 5.0
    scores[:, :, 3, 0] = 9.0  # sure that it does not match
    reduced = MultipleChoiceEvaluator(Retrieval(), CHOICES, OPTIONS).reduce(output(scores))
    np.testing.assert_allclose(reduced["logits"], [[0.0, 0.0, 5.0, -9.0]] * 3)
    assert reduced["clip_logits"].shape == (3, 4, 2)


QUESTIONS = [
    OpenQuestion(id="0", video_id="a", question="word0 ?", answer="yes", question_type="what"),
    OpenQuestion(id="1", video_id="a", question="word1 ?", answer="no", question_type="what"),
    OpenQuestion(id="2", video_id="b", question="word2 ?", answer="never", question_type="who"),
    OpenQuestion(id="3", video_id="c", question="word3 ?", answer="yes", question_type="who"),
]
ANSWERS = ("no", "yes", "two")
ANSWER_OPTIONS = dataclasses.replace(OPTIONS, answers=ANSWERS)


def answers_reduced(answers: list[list[int]]) -> dict[str, np.ndarray]:
    """Return probabilities 0.5, 0.25 ... of the best answers; two clips that say the first and the last."""
    best = np.array(answers)
    return {
        "answers": best,
        "probabilities": np.tile(0.5 ** np.arange(1, best.shape[1] + 1), (len(best), 1)),
        "clip_answers": best[:, [0, -1]],
        "clip_probabilities": np.tile([0.75, 0.5], (len(best), 1)),
        "clip_probabilities_of_answer": np.tile([0.75, 0.25], (len(best), 1)),
    }


def test_an_answer_outside_of_the_vocabulary_counts_as_wrong():
    evaluator = OpenQuestionEvaluator(OpenEndedQA(num_answers=3), QUESTIONS, ANSWER_OPTIONS)
    reduced = answers_reduced([[1, 0], [1, 0], [0, 1], [1, 0]])
    metrics = evaluator.metrics(reduced)
    assert metrics == {
        "accuracy": 50.0,
        "accuracy_in_vocabulary": pytest.approx(200 / 3),
        "share_out_of_vocabulary": 25.0,
        "accuracy/what": 50.0,
        "accuracy/who": 50.0,
    }
    assert evaluator.baseline == {"accuracy": 50.0}
    predictions = check_parts_agree(evaluator, reduced)
    assert [p["is_in_vocabulary"] for p in predictions] == [True, True, False, True]
    assert [p["is_right"] for p in predictions] == [True, False, False, True]
    assert predictions[2] == {
        "id": "2",
        "video_id": "b",
        "question": "word2 ?",
        "answer": "never",
        "question_type": "who",
        "is_in_vocabulary": False,
        "is_right": False,
        "predicted": [{"answer": "no", "probability": 0.5}, {"answer": "yes", "probability": 0.25}],
        "clips": [
            {"answer": "no", "probability": 0.75, "probability_of_prediction": 0.75},
            {"answer": "yes", "probability": 0.5, "probability_of_prediction": 0.25},
        ],
    }


@pytest.mark.parametrize("make", [OpenQuestionEvaluator, SoftQuestionEvaluator])
def test_outputs_of_a_head_beyond_the_vocabulary_are_never_answered(make):
    task = (OpenEndedQA if make is OpenQuestionEvaluator else ImageQA)(num_answers=7)
    questions = QUESTIONS if make is OpenQuestionEvaluator else SOFT_QUESTIONS
    evaluator = make(task, questions, ANSWER_OPTIONS)
    scores = np.zeros((4, 2, 1, 7))
    scores[:, 0, 0, 1], scores[:, 1, 0, 0] = 3.0, 1.0  # the clips disagree
    scores[..., 3:] = 50.0
    reduced = evaluator.reduce(output(scores))
    assert reduced["answers"].tolist() == [[1, 0, 2]] * 4
    assert reduced["clip_answers"].tolist() == [[1, 0]] * 4
    logits = np.array([[0.5, 1.5, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0]])  # both clips, one, the other
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    if make is SoftQuestionEvaluator:  # several answers may be right
        probabilities = 1 / (1 + np.exp(-logits))
    close = {"rtol": 1e-5}
    np.testing.assert_allclose(reduced["probabilities"][0], probabilities[0, [1, 0, 2]], **close)
    np.testing.assert_allclose(reduced["clip_probabilities"][0], probabilities[[1, 2], [1, 0]], **close)
    np.testing.assert_allclose(reduced["clip_probabilities_of_answer"][0], probabilities[[1, 2], 1], **close)


SOFT_QUESTIONS = [
    SoftQuestion(
        id=id_, video_id=f"image{n}", question=f"word{n} ?", answer_scores=scores, answer_type=answer_type
    )
    for n, (id_, scores, answer_type) in enumerate(
        (
            ("100", {"yes": 1.0}, "yes/no"),
            ("101", {"no": 0.9, "yes": 0.3}, "yes/no"),
            ("102", {"three": 1.0, "two": 0.6}, "number"),
            ("test_103", {"nobody": 1.0}, "other"),
        )
    )
]


def test_soft_answers_score_as_people_found_them_right():
    evaluator = SoftQuestionEvaluator(ImageQA(num_answers=3), SOFT_QUESTIONS, ANSWER_OPTIONS)
    reduced = answers_reduced([[1, 0], [1, 0], [2, 0], [0, 1]])
    metrics = evaluator.metrics(reduced)
    assert metrics == {
        "accuracy": pytest.approx(100 * (1.0 + 0.3 + 0.6) / 4),
        "accuracy/number": pytest.approx(60.0),
        "accuracy/other": 0.0,
        "accuracy/yes/no": pytest.approx(65.0),
        "accuracy_in_vocabulary": pytest.approx(100 * (1.0 + 0.3 + 0.6) / 3),
        "share_out_of_vocabulary": 25.0,
        "best_possible_accuracy": pytest.approx(100 * (1.0 + 0.9 + 0.6) / 4),
    }
    assert evaluator.baseline == {"accuracy": pytest.approx(100 * 1.3 / 4)}  # always yes
    predictions = check_parts_agree(evaluator, reduced)
    assert [p["score"] for p in predictions] == [1.0, 0.3, 0.6, 0.0]
    assert (
        predictions[1].items() >= {"answer_scores": {"no": 0.9, "yes": 0.3}, "answer_type": "yes/no"}.items()
    )


def test_a_question_that_nobody_answered_is_wrong_and_the_others_count():
    questions = [*SOFT_QUESTIONS[:1], dataclasses.replace(SOFT_QUESTIONS[1], answer_scores={})]
    evaluator = SoftQuestionEvaluator(ImageQA(num_answers=3), questions, ANSWER_OPTIONS)
    metrics = evaluator.metrics(answers_reduced([[1, 0], [1, 0]]))
    assert metrics["accuracy"] == metrics["share_out_of_vocabulary"] == 50.0


def test_answers_are_written_as_the_vqa_server_wants_them(tmp_path):
    evaluator = SoftQuestionEvaluator(ImageQA(num_answers=3), SOFT_QUESTIONS, ANSWER_OPTIONS)
    (path,) = evaluator.write_extras(tmp_path, "test-1-clips", answers_reduced([[1], [0], [2], [0]]))
    assert json.loads(path.read_text()) == [
        {"question_id": 100, "answer": "yes"},
        {"question_id": 101, "answer": "no"},
        {"question_id": 102, "answer": "two"},
        {"question_id": "test_103", "answer": "no"},
    ]


def test_withheld_answers_give_no_metrics_but_a_submission(tmp_path):
    questions = [dataclasses.replace(question, answer_scores={}) for question in SOFT_QUESTIONS]
    evaluator = SoftQuestionEvaluator(ImageQA(num_answers=3), questions, ANSWER_OPTIONS)
    reduced = answers_reduced([[1, 0], [0, 1], [2, 0], [0, 1]])
    evaluation = evaluator.evaluate(reduced)
    assert (
        evaluation.metrics == evaluation.intervals == evaluator.baseline == evaluator.metrics(reduced) == {}
    )
    predictions = list(evaluator.predictions(reduced))
    assert [(p["score"], p["predicted"][0]["answer"]) for p in predictions] == [
        (None, "yes"), (None, "no"), (None, "two"), (None, "no"),
    ]  # fmt: skip
    (path,) = evaluator.write_extras(tmp_path, "test-1-clips", reduced)
    assert len(json.loads(path.read_text())) == 4


def test_counts_are_rounded_and_moved_into_the_range():
    questions = [
        Count(id=str(n), video_id=f"v{n // 2}", question="word0 ?", count=count)
        for n, count in enumerate((2, 2, 10, 1, 2))
    ]
    evaluator = CountEvaluator(CountQA(min_count=1, max_count=10), questions, OPTIONS)
    counts = np.array([1.5, 2.5, 12.0, -4.0, 3.0], np.float32)
    reduced = {"counts": counts, "clip_counts": np.stack([counts - 1, counts + 1], axis=-1)}
    assert evaluator.metrics(reduced) == {
        "mse": pytest.approx(1 / 5),
        "mse_unrounded": pytest.approx((0.25 + 0.25 + 4 + 25 + 1) / 5),
        "accuracy": 80.0,
    }
    # The mean of the counts is 3.4, so 3 is the best whole number; 2 is the most frequent one.
    assert evaluator.baseline == {
        "mse": pytest.approx((1 + 1 + 49 + 4 + 1) / 5),
        "mse_unrounded": pytest.approx(np.var([2, 2, 10, 1, 2])),
        "accuracy": 60.0,
    }
    assert evaluator.is_lower_better
    predictions = check_parts_agree(evaluator, reduced)
    assert [p["predicted"] for p in predictions] == [2, 2, 10, 1, 3]
    assert predictions[3] == {
        "id": "3",
        "video_id": "v1",
        "question": "word0 ?",
        "count": 1,
        "predicted": 1,
        "predicted_unrounded": -4.0,
        "clip_counts": [-5.0, -3.0],
    }


def test_counts_of_clips_are_kept():
    questions = [Count(id="0", video_id="v", question="word0 ?", count=1)]
    evaluator = CountEvaluator(CountQA(), questions, OPTIONS)
    reduced = evaluator.reduce(output(np.array([1.0, 4.0]).reshape(1, 2, 1, 1)))
    assert reduced["counts"].tolist() == [2.5]
    assert reduced["clip_counts"].tolist() == [[1.0, 4.0]]


def pretraining(captions: list[Caption], share: float = 0.5) -> PretrainingEvaluator:
    return PretrainingEvaluator(Pretraining(masking=Masking(mask_prob=share)), captions, OPTIONS)


def asked(evaluator: PretrainingEvaluator) -> dict[str, list[Any]]:
    """Return what is shown for each caption, by its id."""
    queries = evaluator._queries
    return {
        caption.id: [ids.tolist(), labels.tolist()]
        for caption, ids, labels in zip(evaluator.records, queries.text_ids, evaluator._labels, strict=True)
    }


def test_pretraining_asks_every_model_the_same():
    first = asked(pretraining(CAPTIONS))
    assert first == asked(pretraining(CAPTIONS))
    assert any(max(labels) >= 0 for _, labels in first.values())
    renamed = [dataclasses.replace(caption, id=f"other {caption.id}") for caption in CAPTIONS]
    assert list(first.values()) != list(asked(pretraining(renamed)).values())


def test_pretraining_shows_a_caption_of_another_video_beside_the_right_one():
    evaluator = pretraining(CAPTIONS, share=0.0)
    ids, _ = OPTIONS.encode([caption.text for caption in CAPTIONS])
    for caption, own, (shown, labels) in zip(CAPTIONS, ids, asked(evaluator).values(), strict=True):
        others = [c.video_id for c, theirs in zip(CAPTIONS, ids, strict=True) if shown[1] == theirs.tolist()]
        assert shown[0] == own.tolist()
        assert others
        assert caption.video_id not in others
        assert set(labels) == {-1}


def test_pretraining_scores_words_and_matching():
    evaluator = pretraining(CAPTIONS, share=1.0)  # two hidden words in each caption
    ids, _ = OPTIONS.encode([caption.text for caption in CAPTIONS])
    words = np.zeros_like(ids)
    words[:2] = ids[:2]
    words[2, 1] = ids[2, 1]
    reduced = {
        "words": words,
        "match_logits": np.array([[1.0, -1.0], [2.0, 3.0], [-1.0, -1.0], [1.0, 1.0]]),
        "clip_match_logits": np.array([[1.0], [2.0], [-1.0], [1.0]]),
    }
    assert evaluator.metrics(reduced) == {
        "mean_accuracy": pytest.approx((62.5 + 62.5) / 2),
        "matching": pytest.approx(100 * (3 + 2) / 8),
        "masked_lm": pytest.approx(100 * 5 / 8),
    }
    assert evaluator.baseline == {"matching": 50.0, "masked_lm": pytest.approx(100 / 8)}
    predictions = check_parts_agree(evaluator, reduced)
    assert predictions[2] == {
        "id": "a1",
        "video_id": "a",
        "text": "word4 word5",
        "hidden": ["word4", "word5"],
        "guessed": ["word4", "[PAD]"],
        "match_logit": -1.0,
        "clip_match_logits": [-1.0],
        "match_logit_of_other_caption": -1.0,
    }


def test_embeddings_beyond_the_vocabulary_are_never_guessed():
    num_words = OPTIONS.tokenizer.vocab_size
    token_scores = np.zeros((4, 2, 2, 8, num_words + 9), np.float32)
    token_scores[:, :, 0, :, 7] = 1.0
    token_scores[:, :, 1, :, 5] = 2.0  # of the other caption
    token_scores[..., num_words:] = 50.0
    says = dataclasses.replace(output(np.zeros((4, 2, 2, 2))), token_scores=jnp.asarray(token_scores))
    reduced = pretraining(CAPTIONS).reduce(says)
    assert reduced["words"].tolist() == [[7] * 8] * 4
    assert reduced["match_logits"].shape == (4, 2)
    assert reduced["clip_match_logits"].shape == (4, 2)


def test_words_of_texts_that_are_cut_keep_their_places():
    token_scores = np.zeros((4, 2, 2, 3, OPTIONS.tokenizer.vocab_size), np.float32)
    token_scores[:, :, 0, :, 7] = 1.0
    says = dataclasses.replace(output(np.zeros((4, 2, 2, 2))), token_scores=jnp.asarray(token_scores))
    assert pretraining(CAPTIONS).reduce(says)["words"].tolist() == [[7] * 3 + [0] * 5] * 4


def test_pretraining_without_hidden_words_scores_matching_alone():
    evaluator = pretraining(CAPTIONS, share=0.0)
    reduced = {"words": np.zeros((4, 8), int), "match_logits": np.array([[1.0, -1.0]] * 4)}
    assert evaluator.metrics(reduced) == {"mean_accuracy": 100.0, "matching": 100.0}


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (Retrieval(), "count"),
        (Pretraining(), "image_qa"),
        (OpenEndedQA(), "retrieval"),
        (ImageQA(), "open_ended_qa"),
        (MultipleChoiceQA(), "retrieval"),
        (Retrieval(), "no_such_task"),
    ],
)
def test_what_a_head_cannot_do_is_refused(task, name, tmp_path):
    with pytest.raises(UserError, match=f"--task {name}"):
        make_evaluator(name, task, tmp_path, "test", OPTIONS)


def test_a_count_out_of_range_is_refused():
    question = Count(id="q7", video_id="v", question="word1 ?", count=9)
    with pytest.raises(UserError, match="question 'q7' has the count 9"):
        CountEvaluator(CountQA(max_count=8), [question], OPTIONS)


def test_an_empty_split_is_refused(tmp_path):
    write_records(records_path(tmp_path, Caption, "test"), [])
    with pytest.raises(UserError, match=r"captions/test.jsonl is empty"):
        make_evaluator("retrieval", Retrieval(), tmp_path, "test", OPTIONS)
