from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from clipbert_jax.batch import Batch
from clipbert_jax.errors import UserError
from clipbert_jax.tasks.retrieval import Retrieval
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records, records_path, write_records
from data_pipelines.clips import sample_clips
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.data_config import DataConfig
from data_pipelines.decoding.video import UnreadableVideo, Video
from data_pipelines.examples import RetrievalExamples
from data_pipelines.loader import train_batches
from data_pipelines.mixture import Mixture
from data_pipelines.synthetic.video_corpus import prepare_synthetic_videos
from data_pipelines.tokenizer import build_vocab, write_vocab
from data_pipelines.video_batches import video_batches
from tests.data_pipelines.written import write_videos

TASK = Retrieval(num_negatives=2)


@pytest.fixture
def config(data_dir) -> DataConfig:
    return DataConfig(data_dir=str(data_dir), num_clips=3, num_frames=2, fps=4.0, size=32, max_text_length=18)


def take(config: DataConfig, count: int, task: Any = TASK, **options) -> list[Batch]:
    options = {"batch_size": 4, "seed": 0, **options}
    batches = train_batches(config, task, **options)
    try:
        # Copied, because batches of workers lie in memory that is shared with them.
        return [jax.tree.map(np.array, next(batches)) for _ in range(count)]
    finally:
        batches.close()


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for field in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def texts_of(batch: Batch, config: DataConfig) -> list[list[str]]:
    tokens = config.load_tokenizer().tokens
    return [
        [
            re.sub(r" ([,:?])", r"\1", " ".join(tokens[i] for i in ids[mask][1:-1]))
            for ids, mask in zip(*row, strict=True)
        ]
        for row in zip(np.asarray(batch.text_ids), np.asarray(batch.text_mask), strict=True)
    ]


def test_batches_are_what_the_contract_says(config):
    (batch,) = take(config, 1)
    assert batch.frames.shape == (4, 3, 2, 32, 32, 3)
    assert batch.frames.dtype == np.uint8
    assert batch.text_ids.shape == batch.text_mask.shape == (4, 3, 18)
    np.testing.assert_array_equal(batch.labels, [[1, 0, 0]] * 4)
    assert batch.text_valid.all()
    assert batch.example_mask.tolist() == [True] * 4


@pytest.mark.parametrize("num_workers", [2, *(pytest.param(x, marks=pytest.mark.slow) for x in (1, 3))])
def test_workers_change_nothing(config, num_workers):
    assert_equal(take(config, 5), take(dataclasses.replace(config, num_workers=num_workers), 5))


def test_resuming_at_a_step_changes_nothing(config):
    batches = take(config, 7)
    assert_equal(batches[4:], take(config, 3, start_step=4))
    iterator = train_batches(config, TASK, batch_size=4, seed=0)
    for _ in range(4):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    assert state == {"next_step": 4}
    iterator.close()
    other = train_batches(dataclasses.replace(config, num_threads=1), TASK, batch_size=4, seed=0)
    other.set_state(state)
    assert_equal(batches[4:6], [next(other), next(other)])
    other.set_state({"next_step": 1})
    assert_equal(batches[1:2], [next(other)])
    other.close()


def test_every_example_comes_once_an_epoch_in_a_new_order(config, data_dir):
    captions = [c.text for c in read_records(data_dir, Caption, "train")]
    epochs, batch_size = 3, 4
    assert len(captions) % batch_size  # epochs do not end with a batch
    steps = -(-epochs * len(captions) // batch_size)
    positives = [row[0] for b in take(config, steps, batch_size=batch_size) for row in texts_of(b, config)]
    orders = [positives[e * len(captions) : (e + 1) * len(captions)] for e in range(epochs)]
    for order in orders:
        assert Counter(order) == Counter(captions)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_clips_and_order_depend_on_the_seed(config):
    (first,), (other,) = take(config, 1), take(config, 1, seed=1)
    assert texts_of(first, config) != texts_of(other, config)
    assert (first.frames != other.frames).any()


def test_clips_of_a_video_differ_between_epochs(config, data_dir):
    count = len(read_records(data_dir, Caption, "train"))
    first, second = take(config, 2, batch_size=count)
    of = {row[0]: frames for row, frames in zip(texts_of(second, config), second.frames, strict=True)}
    pairs = [(f, of[row[0]]) for row, f in zip(texts_of(first, config), first.frames, strict=True)]
    assert sum((a != b).any() for a, b in pairs) == count


@pytest.mark.parametrize("process_count", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("text_buckets", [(), (4,)])
def test_processes_share_a_batch(config, data_dir, tmp_path, process_count, text_buckets):
    words = ["box", "sun", "moon", "ring", "star", "leaf", "drop", "heart", "box " * 9]
    data = with_texts(data_dir, tmp_path / "data", words)  # with a long one here and there
    config = dataclasses.replace(config, data_dir=str(data), text_buckets=text_buckets)
    alone = take(config, 3)
    options = {"process_count": process_count}
    shares = [take(config, 3, process_index=p, **options) for p in range(process_count)]
    assert_equal(alone, [_joined(parts) for parts in zip(*shares, strict=True)])
    resumed = take(config, 1, process_index=1, start_step=2, **options)
    assert_equal(shares[1][2:], resumed)


def with_texts(data_dir: Path, path: Path, texts: Sequence[str]) -> Path:
    """Copy a data directory and give its first captions other texts, without the rest."""
    shutil.copytree(data_dir, path)
    captions = zip(read_records(data_dir, Caption, "train"), texts, strict=False)
    captions = [dataclasses.replace(caption, text=text) for caption, text in captions]
    write_records(records_path(path, Caption, "train"), captions)
    return path


def _joined(parts: tuple[Batch, ...]) -> Batch:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def test_a_batch_must_divide_over_the_processes(config):
    with pytest.raises(UserError, match=r"--train.batch-size 5 must be a multiple of the 2 processes"):
        train_batches(config, TASK, batch_size=5, seed=0, process_count=2)


def test_a_text_bucket_is_the_least_that_holds_the_texts_of_the_batch(config, data_dir, tmp_path):
    data = with_texts(data_dir, tmp_path / "data", ["box " * count for count in range(1, 11)])
    config = dataclasses.replace(config, data_dir=str(data))
    plain = take(config, 12, batch_size=1)
    longest = [int(batch.text_mask.sum(-1).max()) for batch in plain]
    bucketed = take(dataclasses.replace(config, text_buckets=(10, 3)), 12, batch_size=1)
    lengths = [batch.text_ids.shape[-1] for batch in bucketed]
    assert lengths == [10 if length <= 10 else 18 for length in longest]
    assert len(set(lengths)) == 2
    for a, b, length in zip(plain, bucketed, lengths, strict=True):
        np.testing.assert_array_equal(a.text_ids[..., :length], b.text_ids)
        np.testing.assert_array_equal(a.text_mask[..., :length], b.text_mask)
        np.testing.assert_array_equal(a.frames, b.frames)
    with pytest.raises(UserError, match=r"--data.text-buckets are lengths from 2 to .* 18, not 19"):
        take(dataclasses.replace(config, text_buckets=(19,)), 1)


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("other") / "data"
    return prepare_synthetic_videos(path, num_train=6, num_validation=1, num_test=1, num_workers=0, seed=7)


def test_a_mixture_takes_turns_and_shows_every_example_once_an_epoch(config, data_dir, other_dir):
    """Each data directory gives the examples that it would give alone, in their order."""
    sources = ((str(data_dir), 2.0), (str(other_dir), 1.0))
    mixed = take(dataclasses.replace(config, mixture=sources), 15)
    alone = take(config, 10)
    first = [(texts, frames) for batch in mixed for texts, frames in _rows(batch, config)]
    expected = [(texts, frames) for batch in alone for texts, frames in _rows(batch, config)]
    places = Mixture([1, 1], [2.0, 1.0], 0)
    is_first = [places.place(position).source == 0 for position in range(60)]
    assert sum(is_first) == 40
    for (texts, frames), (other_texts, other_frames) in zip(
        itertools.compress(first, is_first), expected, strict=True
    ):
        assert texts == other_texts
        np.testing.assert_array_equal(frames, other_frames)
    others = [texts[0] for (texts, _), mine in zip(first, is_first, strict=True) if not mine]
    captions = Counter(c.text for c in read_records(other_dir, Caption, "train"))
    assert len(others) == 2 * captions.total() == 20
    assert Counter(others[:10]) == Counter(others[10:]) == captions
    assert others[:10] != others[10:]


def _rows(batch: Batch, config: DataConfig) -> list[tuple[list[str], np.ndarray]]:
    return list(zip(texts_of(batch, config), batch.frames, strict=True))


def test_a_mixture_is_the_same_for_workers_processes_and_resumption(config, data_dir, other_dir):
    mixture = ((str(data_dir), 1.0), (str(other_dir), 2.0))
    config = dataclasses.replace(config, mixture=mixture, text_buckets=(8,))
    alone = take(config, 4)
    assert_equal(alone, take(dataclasses.replace(config, num_workers=2), 4))
    assert_equal(alone[2:], take(config, 2, start_step=2))
    shares = [take(config, 4, process_index=p, process_count=2) for p in range(2)]
    assert_equal(alone, [_joined(parts) for parts in zip(*shares, strict=True)])


def test_bad_sources_of_a_mixture_are_refused(config, data_dir, tmp_path):
    with pytest.raises(UserError, match="no data directory"):
        take(dataclasses.replace(config, mixture=((str(data_dir), 1.0), (str(tmp_path / "no"), 1.0))), 1)
    with pytest.raises(UserError, match=r"weights of --data\.mixture"):
        take(dataclasses.replace(config, mixture=((str(data_dir), 0.0),)), 1)


def test_the_released_rule_reaches_training_and_evaluation(config):
    ids = ["test_00000", "test_00001"]
    released = dataclasses.replace(config, sampling_rule="original")

    def times(config: DataConfig, num_clips: int, **options) -> np.ndarray:
        batches = list(video_batches(config, ids, batch_size=2, num_clips=[num_clips], **options))
        return batches[0].clip_times

    assert (times(released, 4)[:, 0, 0] == 0.0).all()  # theirs start with the video
    assert (times(config, 4)[:, 0, 0] > 0.0).all()  # ours is centred
    np.testing.assert_array_equal(times(released, 1)[:, 0], times(released, 3)[:, 1])
    assert (times(released, 1, one_clip="start")[:, :, 0] == 0.0).all()
    (a,), (b,) = take(config, 1), take(released, 1)
    np.testing.assert_array_equal(a.text_ids, b.text_ids)
    assert (a.frames != b.frames).any()


def test_too_little_shared_memory_is_said_before_the_first_batch(config, monkeypatch):
    status = type("Status", (), {"f_bavail": 1, "f_frsize": 4096})()
    monkeypatch.setattr("data_pipelines.workers.batch_workers.os.statvfs", lambda path: status)
    config = dataclasses.replace(config, num_workers=2)
    with pytest.raises(UserError, match=r"2 workers .* need .* GiB of shared memory"):
        train_batches(config, TASK, batch_size=2, seed=0)
    with pytest.raises(UserError, match=r"2 workers .* need .* GiB of shared memory"):
        next(video_batches(config, ["test_00000"], batch_size=1, num_clips=[1]))


def test_negatives_are_other_texts_of_other_videos():
    captions = [
        Caption(id="0", video_id="a", text="a cat"),
        Caption(id="1", video_id="a", text="my pet"),
        Caption(id="2", video_id="b", text="a cat"),
        Caption(id="3", video_id="b", text="a dog"),
        Caption(id="4", video_id="c", text="a tree"),
    ]
    examples = RetrievalExamples(captions, 1)
    drawn = {
        index: {examples.draw(index, np.random.default_rng(s)).texts[1] for s in range(60)}
        for index in range(len(captions))
    }
    assert drawn == {
        0: {"a dog", "a tree"},
        1: {"a cat", "a dog", "a tree"},
        2: {"my pet", "a tree"},
        3: {"a cat", "my pet", "a tree"},
        4: {"a cat", "my pet", "a dog"},
    }


def test_captions_without_negatives_are_refused_at_once(config, data_dir, tmp_path):
    captions = [Caption(id=str(i), video_id=v, text=t) for i, (v, t) in enumerate(["ax", "ay", "bx", "by"])]
    RetrievalExamples(captions, 1)
    with pytest.raises(UserError, match="caption '0'"):
        RetrievalExamples(captions[:2], 1)
    with pytest.raises(UserError, match="caption '0'"):
        RetrievalExamples(captions[:3], 1)
    with pytest.raises(UserError, match=r"--task.num-negatives must be at least 1, not 0"):
        train_batches(config, Retrieval(num_negatives=0), batch_size=2, seed=0)


def test_evaluation_sees_each_video_once_and_fills_the_last_batch(config, data_dir):
    ids = [c.video_id for c in read_records(data_dir, Caption, "test")][:7]
    batches = list(video_batches(config, ids, batch_size=3, num_clips=[4]))
    assert [b.video_ids for b in batches] == [tuple(ids[:3]), tuple(ids[3:6]), (ids[6],)]
    assert [b.example_mask.tolist() for b in batches] == [[True] * 3, [True] * 3, [True, False, False]]
    assert all(b.frames.shape == (3, 4, 2, 32, 32, 3) for b in batches)
    assert not batches[2].frames[1:].any()
    alone = list(video_batches(config, ids, batch_size=1, num_clips=[4]))
    for row, video_id in enumerate(ids):
        batch = batches[row // 3]
        np.testing.assert_array_equal(batch.frames[row % 3], alone[row].frames[0])
        times = batch.clip_times[row % 3]
        duration = open_corpus(data_dir).read(video_id).index.duration
        middles = duration * (np.arange(4) + 0.5) / 4
        np.testing.assert_allclose(times.mean(1), middles, atol=0.3)  # frames are up to 1/8 s old
        assert ((times >= 0) & (times < duration)).all()


def test_evaluation_can_sample_at_random_reproducibly(config):
    one = [
        b.frames
        for b in video_batches(
            config, ["test_00000", "test_00001"], batch_size=2, num_clips=[2], sampling="random"
        )
    ]
    two = [
        b.frames
        for b in video_batches(
            config, ["test_00001", "test_00000"], batch_size=2, num_clips=[2], sampling="random"
        )
    ]
    np.testing.assert_array_equal(one[0], two[0][::-1])


def test_clips_of_training_may_be_uniform(config):
    config = dataclasses.replace(config, sampling="uniform")
    corpus = open_corpus(config.data_dir)
    spread = [
        sample_clips(corpus.read(video_id), config, num_clips=config.num_clips).frames
        for video_id in corpus.ids
        if video_id.startswith("train")
    ]
    (batch,) = take(config, 1)
    for frames in batch.frames:
        assert any(np.array_equal(frames, of_video) for of_video in spread)


@pytest.fixture
def damaged_dir(data_dir, tmp_path) -> Path:
    """A corpus whose second video has lost its bytes after it was prepared."""
    corpus = open_corpus(data_dir)
    good, bad = (corpus.read(video_id) for video_id in corpus.ids[:2])
    write_videos(
        tmp_path, [good, Video(video_id="bad", data=bad.data[:900], index=bad.index, health=bad.health)]
    )
    captions = [Caption(id=i, video_id=i, text=i) for i in (good.video_id, "bad")]
    write_records(records_path(tmp_path, Caption, "train"), captions)
    write_vocab(tmp_path / "vocab.txt", build_vocab(c.text for c in captions))
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_video_that_does_not_decode_is_named_and_never_replaced(config, damaged_dir, num_workers):
    config = dataclasses.replace(config, data_dir=str(damaged_dir), num_workers=num_workers)
    message = r"^cannot read the video bad: [^\n]*$"  # as it is, with nothing added by workers
    with pytest.raises(UnreadableVideo, match=message):
        list(video_batches(config, open_corpus(damaged_dir).ids, batch_size=1, num_clips=[2]))
    with pytest.raises(UnreadableVideo, match=message):
        take(config, 2, batch_size=2)


def test_missing_data_are_explained(config, damaged_dir, tmp_path):
    with pytest.raises(UserError, match="no data directory"):
        take(dataclasses.replace(config, data_dir=str(tmp_path / "nowhere")), 1)
    with pytest.raises(UserError, match="no vocabulary at"):
        take(dataclasses.replace(config, vocab=str(tmp_path / "nowhere")), 1)
    with pytest.raises(UserError, match=r"lacks 1 video\(s\) asked for, first 'nobody'"):
        list(video_batches(config, ["test_00000", "nobody"], batch_size=1, num_clips=[1]))
    with pytest.raises(UserError, match="'test_00001' is asked for twice; name every video once"):
        list(video_batches(config, ["test_00000", "test_00001", "test_00001"], batch_size=1, num_clips=[1]))
    records = records_path(damaged_dir, Caption, "train")
    captions = read_records(damaged_dir, Caption, "train")
    write_records(records, [*captions, Caption(id="0", video_id="gone", text="x")])
    config = dataclasses.replace(config, data_dir=str(damaged_dir))
    with pytest.raises(UserError, match=r"lacks 1 video\(s\) of the train records, first 'gone'"):
        take(config, 1)
    write_records(records, [])
    with pytest.raises(UserError, match="has no train examples"):
        take(config, 1)
