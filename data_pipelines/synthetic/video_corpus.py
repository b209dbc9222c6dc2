"""Makes a data directory of synthetic videos with texts, to try and test everything without a download.

`clipbert prepare demo`, `make demo`, `make findings` and tests call it. `image_corpus` makes images of the
same objects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipbert_jax.config_checks import check_range
from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import OpenQuestion
from data_pipelines.annotations.store import SPLITS, records_path, write_answers, write_records
from data_pipelines.corpus.entry import CorpusEntry
from data_pipelines.corpus.ingest import (
    IngestOptions,
    OnProgress,
    build_shards,
    new_data_dir,
    silently,
    write_summary,
)
from data_pipelines.corpus.storage import Original, store
from data_pipelines.decoding.video import Video
from data_pipelines.synthetic.drawing import Event
from data_pipelines.synthetic.texts import Level, draw_events, num_sets, open_answers, vocabulary
from data_pipelines.synthetic.video import VideoPlan, make_video
from data_pipelines.synthetic.video_records import video_records
from data_pipelines.tokenizer import write_vocab

NUM_EVENTS = 3
NUM_SAMPLES = 3
_SECONDS_PER_VIDEO = 120.0
_SOURCE = "embedded"  # on disk, where older versions wrote it too


def prepare_synthetic_videos(
    data_dir: str | Path,
    *,
    level: Level = "easy",
    num_train: int = 800,
    num_validation: int = 64,
    num_test: int = 100,
    seed: int = 0,
    num_workers: int = 2,
    overwrite: bool = False,
    on_progress: OnProgress = silently,
) -> Path:
    """Make a data directory of synthetic videos, captions and questions; same options, same bytes.

    Test and validation videos have one caption each, with a set of events that no other has; train videos
    have one or two. At level easy every set of objects in the test split also occurs in train, in other
    videos. Every video has a multiple-choice and an open question.

    Args:
      data_dir: the data directory; it must not exist unless `overwrite`.
      level: level of the texts.
      num_train: number of train videos.
      num_validation: number of validation videos.
      num_test: number of test videos.
      seed: seed of everything except the vocabulary.
      num_workers: number of processes; 0 works in this one. The result does not depend on it.
      overwrite: replace an older data directory.
      on_progress: called with the number of videos made so far.

    Raises:
      UserError: the directory exists, a split has no videos or more than there are different captions, or the
        seed is negative.
    """
    counts = {"train": num_train, "validation": num_validation, "test": num_test}
    check_numbers(counts, seed)
    _check_enough_sets(level, counts)
    plans = {split: _plan_split(split, level, counts[split], seed) for split in SPLITS}
    with new_data_dir(data_dir, overwrite=overwrite) as new_dir:
        build_videos(new_dir, plans, entry_of_plan, ".mp4", num_workers, on_progress)
        for split in SPLITS:
            for kind, records in video_records(plans[split], split, level).items():
                write_records(records_path(new_dir, kind, split), records)
        write_answers(new_dir, OpenQuestion, open_answers(level))
        write_vocab(new_dir / "vocab.txt", vocabulary(level))
        write_summary(new_dir, source=_SOURCE, level=level, seed=seed, num_videos=counts, unreadable=[])
    return Path(data_dir)


def read_plans(data_dir: str | Path, split: str) -> list[VideoPlan]:
    """Return the plans of the videos in a split, which the corpus does not store.

    Raises:
      UserError: the directory does not hold synthetic videos, or it lacks the split.
    """
    path = Path(data_dir) / "prepare.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{data_dir} is not a data directory: it has no prepare.json") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); prepare the data again") from error
    if not isinstance(facts, dict) or facts.get("source") != _SOURCE:
        raise UserError(
            f"{data_dir} does not hold generated videos, and only theirs have known places of objects; make "
            "some with `clipbert prepare demo`"
        )
    if split not in facts["num_videos"]:
        raise UserError(f"{data_dir} has no split {split!r}: choose from {', '.join(facts['num_videos'])}")
    return _plan_split(split, facts["level"], facts["num_videos"][split], facts["seed"])


def check_numbers(counts: Mapping[str, int], seed: int) -> None:
    """Refuse a count below 1 and a seed below 0.

    Raises:
      UserError: names the option.
    """
    check_range("--seed", seed, 0)
    for split, count in counts.items():
        check_range(f"--num-{split}", count, 1)


def _check_enough_sets(level: Level, counts: Mapping[str, int]) -> None:
    num_different = num_sets(level, NUM_EVENTS)
    for split, count in counts.items():
        if split != "train" and count > num_different:
            raise UserError(
                f"--num-{split} {count} is more than the {num_different} different captions of level "
                f"{level}; ask for fewer, or for a harder level"
            )


def _plan_split(split: str, level: Level, count: int, seed: int) -> list[VideoPlan]:
    """Choose the events of every video; only in train may a set of events repeat."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    plans: list[VideoPlan] = []
    seen: set[frozenset[Event]] = set()
    while len(plans) < count:
        chosen = draw_events(level, NUM_EVENTS, rng)
        if split != "train" and frozenset(chosen) in seen:
            continue
        seen.add(frozenset(chosen))
        plans.append(VideoPlan(video_id=f"{split}_{len(plans):05d}", seed=seed, events=chosen))
    return plans


def entry_of_plan(plan: VideoPlan) -> CorpusEntry:
    """Generate a video for the corpus."""
    return entry_of_video(make_video(plan), ".mp4")


def entry_of_video(video: Video, suffix: str) -> CorpusEntry:
    """Return the corpus entry of a synthetic video or image, with its bytes unchanged."""
    checksum = hashlib.sha256(video.data).hexdigest()
    stored = store(video, Original())
    return CorpusEntry(video=stored, source_name=f"{video.video_id}{suffix}", source_sha256=checksum)


def build_videos(
    new_dir: Path,
    plans: Mapping[str, Sequence[Any]],
    entry_of_plan: Callable[[Any], CorpusEntry],
    suffix: str,
    num_workers: int,
    on_progress: OnProgress,
) -> None:
    """Generate the videos or images of all splits, and write a few test samples as files."""
    from data_pipelines.corpus.reader import open_corpus  # late: keeps worker processes light

    all_plans = [plan for split in SPLITS for plan in plans[split]]
    options = IngestOptions(on_error="error", num_workers=num_workers)
    facts = [repr(plan) for plan in all_plans]
    build_shards(new_dir, entry_of_plan, all_plans, facts, options, _SECONDS_PER_VIDEO, on_progress)
    corpus = open_corpus(new_dir)
    (new_dir / "samples").mkdir()
    for plan in plans["test"][:NUM_SAMPLES]:
        (new_dir / "samples" / f"{plan.video_id}{suffix}").write_bytes(corpus.read(plan.video_id).data)
