"""What each task makes of annotation records: texts, labels, groups, and the batches of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from clipbert_jax.batch import Batch
from clipbert_jax.errors import UserError
from clipbert_jax.tasks.count import CountQA
from clipbert_jax.tasks.image_qa import ImageQA
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.pretraining import Masking, Pretraining
from clipbert_jax.tasks.retrieval import Retrieval
from data_pipelines.annotations.records import Caption, Count, MultipleChoice, OpenQuestion, SoftQuestion
from data_pipelines.annotations.store import read_records, records_path, write_answers, write_records
from data_pipelines.data_config import DataConfig
from data_pipelines.examples import TaskExamples, chunk
from data_pipelines.loader import train_batches
from data_pipelines.read_examples import make_examples
from data_pipelines.tokenizer import SPECIAL_TOKENS

GOLDENS = Path(__file__).parents[1] / "goldens"
VIDEOS = ("train_00000", "train_00001")

CAPTIONS = [Caption(id=str(n), video_id=f"v{n // 2}", text=f"text {n}") for n in range(8)]
CHOICES = [
    MultipleChoice(id="0", video_id=VIDEOS[0], question="which ?", options=("ball", "sun"), answer_index=1),
    MultipleChoice(id="1", video_id=VIDEOS[1], question="", options=("leaf", "box", "ring"), answer_index=0),
]
QUESTIONS = [
    OpenQuestion(id=str(n), video_id=VIDEOS[n % 2], question=f"what {n} ?", answer=answer)
    for n, answer in enumerate(("ball", "sun", "comet", "ball", "moon", "sun", "sun"))
]
SOFT_QUESTIONS = [
    SoftQuestion(id="0", video_id=VIDEOS[0], question="is it ?", answer_scores={"no": 0.9, "maybe": 0.6}),
    SoftQuestion(id="1", video_id=VIDEOS[0], question="who knows ?", answer_scores={}),
    SoftQuestion(id="2", video_id=VIDEOS[0], question="how ?", answer_scores={"yes": 1.0, "no": 0.3}),
]
COUNTS = [
    Count(id=f"c{n}", video_id=VIDEOS[0], question=f"how many {n} ?", count=count)
    for n, count in enumerate((3, 0, 2))
]


def examples_of(
    folder: Path, task: Any, records: Sequence[Any], answers: Sequence[str] | None = None
) -> TaskExamples:
    """Write records, and return what the task makes of them."""
    write_records(records_path(folder, type(records[0]), "train"), records)
    if answers is not None:
        write_answers(folder, type(records[0]), answers)
    return make_examples(task, folder, "train")


def drawn(examples: TaskExamples, seed: int = 0) -> list[tuple[str, list[str], Any]]:
    """Return video, texts and labels of every example."""
    rows, rng = range(len(examples)), np.random.default_rng(seed)
    draws = [examples.draw(row, rng) for row in rows]
    return [(examples.video_id(row), d.texts, d.labels.tolist()) for row, d in zip(rows, draws, strict=True)]


@pytest.fixture
def config(data_dir: Path, tmp_path: Path) -> DataConfig:
    """A data directory whose records may be replaced."""
    folder = shutil.copytree(data_dir, tmp_path / "data")
    return DataConfig(data_dir=str(folder), num_clips=1, num_frames=1, fps=4.0, size=32, max_text_length=18)


def batch_of(config: DataConfig, task: Any, *, batch_size: int, step: int = 0) -> Batch:
    batches = train_batches(config, task, batch_size=batch_size, seed=0, start_step=step)
    try:
        return jax.tree.map(np.array, next(batches))
    finally:
        batches.close()


def test_retrieval_shows_the_caption_first_and_labels_it_a_match(tmp_path):
    examples = examples_of(tmp_path, Retrieval(num_negatives=2), CAPTIONS)
    assert examples.num_texts == 3
    for caption, (video_id, texts, labels) in zip(CAPTIONS, drawn(examples), strict=True):
        assert (video_id, texts[0], labels) == (caption.video_id, caption.text, [1, 0, 0])
        own = {c.text for c in CAPTIONS if c.video_id == video_id}
        assert own.isdisjoint(texts[1:])


def test_options_follow_their_question_and_the_label_is_the_place_of_the_right_one(tmp_path):
    examples = examples_of(tmp_path, MultipleChoiceQA(), CHOICES)
    assert examples.num_texts == 3
    assert drawn(examples) == [
        (VIDEOS[0], ["which ? ball", "which ? sun"], 1),
        (VIDEOS[1], ["leaf", "box", "ring"], 0),
    ]
    assert list(examples.all_texts()) == ["which ? ball", "which ? sun", "leaf", "box", "ring"]


def test_a_question_with_fewer_options_has_rows_that_are_no_texts(config):
    write_records(records_path(config.data_dir, MultipleChoice, "train"), CHOICES)
    batch = batch_of(config, MultipleChoiceQA(), batch_size=2)
    rows = {int(label): row for row, label in enumerate(batch.labels)}
    assert batch.text_valid[[rows[1], rows[0]]].tolist() == [[True, True, False], [True] * 3]
    assert not batch.text_mask[rows[1], 2].any()
    assert batch.token_labels is None


def test_groups_are_those_of_the_original():
    cases = json.loads((GOLDENS / "08b_metrics.json").read_text())["cases"]["chunk_list"]
    cases = [case for case in cases if not case["pad"]]
    assert {case["chunk_size"] for case in cases} == {1, 2, 3}
    for case in cases:
        records = [Caption(id=str(n), video_id="v", text=str(n)) for n in case["examples"]]
        groups = chunk(records, case["chunk_size"])
        assert [[int(record.id) for record in group] for group in groups] == case["result"]


def test_groups_hold_records_of_one_video():
    mixed = [CAPTIONS[n] for n in (0, 2, 4, 1, 3)]
    assert chunk(mixed, 2) == [(CAPTIONS[0], CAPTIONS[1]), (CAPTIONS[2], CAPTIONS[3]), (CAPTIONS[4],)]
    with pytest.raises(UserError, match=r"--task.num-questions .* must be at least 1, not 0"):
        chunk(mixed, 0)


def test_open_questions_of_a_video_share_an_example(tmp_path):
    task = OpenEndedQA(num_questions=2)
    examples = examples_of(tmp_path, task, QUESTIONS, ["sun", "moon", "ball", "comet"])
    assert examples.notes == ()
    assert drawn(examples) == [
        (VIDEOS[0], ["what 0 ?", "what 2 ?"], [2, 3]),
        (VIDEOS[0], ["what 4 ?", "what 6 ?"], [1, 0]),
        (VIDEOS[1], ["what 1 ?", "what 3 ?"], [0, 2]),
        (VIDEOS[1], ["what 5 ?"], [0, -1]),
    ]


def test_questions_with_an_answer_outside_of_the_vocabulary_are_left_out_and_counted(tmp_path):
    examples = examples_of(tmp_path, OpenEndedQA(num_questions=4), QUESTIONS, ["sun", "ball"])
    assert [labels for _, _, labels in drawn(examples)] == [[1, 0, -1, -1], [0, 1, 0, -1]]
    (note,) = examples.notes
    assert note.startswith("2 of 7 train questions have an answer outside of the vocabulary")
    with pytest.raises(UserError, match=r"none of the 7 answers in .*train.jsonl, 'ball' first, is in .*ans"):
        examples_of(tmp_path, OpenEndedQA(), QUESTIONS, ["cloud"])


def test_the_last_questions_of_a_video_leave_rows_that_are_no_texts(config):
    write_records(records_path(config.data_dir, OpenQuestion, "train"), QUESTIONS)
    write_answers(config.data_dir, OpenQuestion, ["sun", "moon", "ball", "comet"])
    batch = batch_of(config, OpenEndedQA(num_questions=4), batch_size=2)
    short = batch.labels[:, 0].tolist().index(0)
    assert batch.labels[short].tolist() == [0, 2, 0, -1]
    assert batch.text_valid[short].tolist() == [True, True, True, False]
    assert batch.text_mask[short].any(-1).tolist() == [True, True, True, False]
    assert batch.text_valid[1 - short].all()


def test_soft_scores_are_in_the_columns_of_their_answers(tmp_path):
    examples = examples_of(tmp_path, ImageQA(num_questions=2), SOFT_QUESTIONS, ["yes", "no"])
    ((video_id, texts, labels),) = drawn(examples)
    assert (video_id, texts) == (VIDEOS[0], ["is it ?", "how ?"])
    np.testing.assert_allclose(labels, [[0.0, 0.9], [1.0, 0.3]])
    assert examples.notes == ("1 train questions have no answers and are not trained on",)


def test_outputs_of_a_head_beyond_the_vocabulary_have_score_0(tmp_path):
    task = ImageQA(num_questions=3, num_answers=4)
    ((_, _, labels),) = drawn(examples_of(tmp_path, task, SOFT_QUESTIONS, ["yes", "no"]))
    np.testing.assert_allclose(labels, [[0.0, 0.9, 0.0, 0.0], [1.0, 0.3, 0.0, 0.0], [0.0] * 4])


def test_soft_answers_of_which_the_vocabulary_has_none_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no answer in .*train.jsonl is in .*answers.json: prepare the data"):
        examples_of(tmp_path, ImageQA(), SOFT_QUESTIONS, ["cloud"])


def test_counts_are_labels(tmp_path):
    examples = examples_of(tmp_path, CountQA(num_questions=2), COUNTS)
    assert drawn(examples) == [
        (VIDEOS[0], ["how many 0 ?", "how many 1 ?"], [3, 0]),
        (VIDEOS[0], ["how many 2 ?"], [2, -1]),
    ]


@pytest.mark.parametrize(("range_", "id_"), [({"max_count": 2}, "c0"), ({"min_count": 1}, "c1")])
def test_a_count_out_of_range_is_refused_by_name(tmp_path, range_, id_):
    (option,) = (f"--task.{name.replace('_', '-')}" for name in range_)
    said = rf"question '{id_}' in .*counts/train.jsonl has the count .*{option}"
    with pytest.raises(UserError, match=said):
        examples_of(tmp_path, CountQA(**range_), COUNTS)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_captions_are_exchanged_at_the_chosen_share(tmp_path, share):
    task = Pretraining(num_captions=3, mismatch_share=share)
    examples = examples_of(tmp_path, task, CAPTIONS)
    assert len(examples) == 4
    video_of = {caption.text: caption.video_id for caption in CAPTIONS}
    num_draws = num_mismatches = 0
    for seed in range(100):
        for row, (video_id, texts, labels) in enumerate(drawn(examples, seed)):
            own = [CAPTIONS[2 * row].text, CAPTIONS[2 * row + 1].text]
            assert labels == [int(text == mine) for text, mine in zip(texts, own, strict=True)] + [-1]
            assert [video_of[text] == video_id for text in texts] == [label == 1 for label in labels[:2]]
            num_draws += 2
            num_mismatches += labels.count(0)
    error = np.sqrt(share * (1 - share) / num_draws)
    assert abs(num_mismatches / num_draws - share) <= 3 * error


def test_hidden_words_are_guessed_and_nothing_else_changes(config):
    plain = batch_of(config, Pretraining(masking=Masking(mask_prob=0.0)), batch_size=16)
    batch = batch_of(config, Pretraining(masking=Masking(mask_prob=0.4)), batch_size=16)
    assert (plain.token_labels == -1).all()
    is_hidden = batch.token_labels >= 0
    is_special = plain.text_ids < len(SPECIAL_TOKENS)
    assert 0.3 < is_hidden.sum() / (~is_special & plain.text_mask).sum() < 0.5
    assert not is_hidden[~batch.text_mask | is_special].any()
    np.testing.assert_array_equal(batch.token_labels[is_hidden], plain.text_ids[is_hidden])
    np.testing.assert_array_equal(batch.text_ids[~is_hidden], plain.text_ids[~is_hidden])
    mask_id = SPECIAL_TOKENS.index("[MASK]")
    assert 0.5 < (batch.text_ids[is_hidden] == mask_id).mean() < 1.0
    np.testing.assert_array_equal(batch.labels, plain.labels)
    assert set(np.unique(batch.labels)) == {-1, 0, 1}
    np.testing.assert_array_equal(batch.labels >= 0, batch.text_valid)


def test_settings_of_pretraining_that_cannot_work_are_refused(config, tmp_path):
    with pytest.raises(UserError, match=r"--task.mismatch-share must be from 0 to 1, not 1.5"):
        examples_of(tmp_path, Pretraining(mismatch_share=1.5), CAPTIONS)
    with pytest.raises(UserError, match=r"caption '0' has no negative"):
        examples_of(tmp_path, Pretraining(), CAPTIONS[:2])
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    config = dataclasses.replace(config, vocab=str(vocabulary))
    with pytest.raises(UserError, match=r"the vocabulary has no \[MASK\]"):
        train_batches(config, Pretraining(), batch_size=4, seed=0)
    train_batches(config, Retrieval(), batch_size=4, seed=0)


def test_other_words_are_hidden_in_the_next_epoch(config):
    captions = read_records(config.data_dir, Caption, "train")
    num_examples = len({caption.video_id for caption in captions})
    task = Pretraining(mismatch_share=0.0)
    first, second = (batch_of(config, task, batch_size=num_examples, step=step) for step in (0, 1))
    hidden = [
        {
            tuple(np.where(labels >= 0, labels, ids)): tuple(labels)
            for ids, labels in zip(
                batch.text_ids.reshape(-1, 18), batch.token_labels.reshape(-1, 18), strict=True
            )
        }
        for batch in (first, second)
    ]
    assert hidden[0].keys() == hidden[1].keys()  # the same captions
    assert hidden[0] != hidden[1]


def test_a_text_bucket_cuts_the_labels_of_tokens_too(config):
    task = Pretraining()
    plain = batch_of(config, task, batch_size=4)
    length = int(plain.text_mask.sum(-1).max())
    assert length < config.max_text_length
    cut = batch_of(dataclasses.replace(config, text_buckets=(length,)), task, batch_size=4)
    for name in ("text_ids", "text_mask", "token_labels"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(plain, name)[..., :length])


def test_workers_hide_the_same_words(config):
    alone = batch_of(config, Pretraining(), batch_size=6)
    others = batch_of(dataclasses.replace(config, num_workers=2), Pretraining(), batch_size=6)
    assert (alone.token_labels >= 0).any()
    for ours, theirs in zip(jax.tree.leaves(alone), jax.tree.leaves(others), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_mixture_needs_one_answer_vocabulary(config, data_dir):
    mixture = ((str(data_dir), 1.0), (config.data_dir, 1.0))
    config = dataclasses.replace(config, mixture=mixture)
    assert batch_of(config, OpenEndedQA(), batch_size=4).labels.min() >= 0
    write_answers(config.data_dir, OpenQuestion, ["sun", "ball"])
    with pytest.raises(UserError, match=r"answers.json and .*answers.json differ: a mixture needs one"):
        train_batches(config, OpenEndedQA(), batch_size=4, seed=0)
    train_batches(config, Retrieval(), batch_size=4, seed=0)  # has no use for answers
