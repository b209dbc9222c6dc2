"""The embedded corpus: small generated videos with texts, to try and test everything without a download.

Levels say what tells texts apart: `easy` ten objects, `medium` colour and shape, `hard` colour, shape and a
state that shows in a single frame. Order in time and direction are never asked for, because ClipBERT
averages over frames and pools over clips.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from clipbert_jax.errors import UserError
from data_pipelines.annotations.records import Caption, MultipleChoice, OpenQuestion
from data_pipelines.annotations.store import SPLITS, records_path, write_records
from data_pipelines.corpus.embedded_video import COLOURS, OBJECTS, STATES, Event, VideoPlan, make_video
from data_pipelines.corpus.ingest import (
    Entry,
    IngestOptions,
    OnProgress,
    build_shards,
    new_data_dir,
    silently,
    write_summary,
)
from data_pipelines.corpus.storage import Original, store
from data_pipelines.tokenizer import build_vocab, write_vocab

Level = Literal["easy", "medium", "hard"]

NUM_EVENTS = 3
NUM_OPTIONS = 5
NUM_SAMPLES = 3
_SECONDS_PER_VIDEO = 120.0
_TEMPLATES = ("{} , {} and {}", "look : {} , {} and {}", "{} , {} , and also {}")


def prepare_embedded(
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
    """Make a data directory of generated videos, captions and questions; same options, same bytes.

    Test and validation videos have one caption each, all different as sets of events; train videos have one
    or two. With level easy every set of objects of the test split also occurs in train, in other videos.

    Args:
      data_dir: where; must not exist unless `overwrite`.
      level: what texts are told apart by.
      num_train: videos.
      num_validation: videos.
      num_test: videos.
      seed: of everything.
      num_workers: processes; 0 works in this one. The result does not depend on it.
      overwrite: replace an older data directory.
      on_progress: called with the number of videos made so far.

    Raises:
      UserError: the directory exists; more videos asked for than there are different captions; a bad seed.
    """
    counts = {"train": num_train, "validation": num_validation, "test": num_test}
    _check_options(level, counts, seed)
    plans = {split: _plan_split(split, level, counts[split], seed) for split in SPLITS}
    with new_data_dir(data_dir, overwrite=overwrite) as new_dir:
        all_plans = [plan for split in SPLITS for plan in plans[split]]
        build_shards(
            new_dir,
            entry_of_plan,
            all_plans,
            [repr(plan) for plan in all_plans],
            IngestOptions(on_error="error", num_workers=num_workers),
            _SECONDS_PER_VIDEO,
            on_progress,
        )
        _write_samples(new_dir)
        texts = []
        for split in SPLITS:
            texts += _write_annotations(new_dir, split, level, plans[split])
        write_vocab(new_dir / "vocab.txt", build_vocab(texts))
        write_summary(new_dir, source="embedded", level=level, seed=seed, num_videos=counts, unreadable=[])
    return Path(data_dir)


def all_events(level: Level) -> list[Event]:
    """Return everything that can happen at a level."""
    if level == "easy":
        return [Event(shape=shape) for shape in OBJECTS]
    shapes = [shape for shape in OBJECTS if shape not in ("sun", "moon", "leaf")]  # odd in other colours
    if level == "medium":
        return [Event(shape=s, colour=c) for s, c in itertools.product(shapes, COLOURS)]
    return [Event(shape=s, colour=c, state=x) for s, c, x in itertools.product(shapes, COLOURS, STATES)]


def event_text(event: Event) -> str:
    """Return "a red ball glows", as far as the level says it."""
    return " ".join(filter(None, ("a", event.colour, event.shape, event.state)))


def _check_options(level: Level, counts: Mapping[str, int], seed: int) -> None:
    if seed < 0:
        raise UserError(f"--seed must be at least 0, not {seed}")
    num_different = _num_sets(level)
    for split, count in counts.items():
        if count < 1:
            raise UserError(f"--num-{split} must be at least 1, not {count}")
        if split != "train" and count > num_different:
            raise UserError(
                f"--num-{split} {count} is more than the {num_different} different captions of level "
                f"{level}; ask for fewer, or for a harder level"
            )


def _num_sets(level: Level) -> int:
    """Return how many different sets of events videos can show; one object does one thing."""
    events = all_events(level)
    num_objects = len({(event.shape, event.colour) for event in events})
    return math.comb(num_objects, NUM_EVENTS) * (len(events) // num_objects) ** NUM_EVENTS


def _plan_split(split: str, level: Level, count: int, seed: int) -> list[VideoPlan]:
    """Choose the events of every video; no set of events twice, except in train."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    events = all_events(level)
    plans: list[VideoPlan] = []
    seen: set[frozenset[Event]] = set()
    while len(plans) < count:
        chosen = tuple(events[i] for i in rng.choice(len(events), NUM_EVENTS, replace=False))
        names = {(event.shape, event.colour) for event in chosen}  # one object does one thing
        if len(names) < NUM_EVENTS or (split != "train" and frozenset(chosen) in seen):
            continue
        seen.add(frozenset(chosen))
        plans.append(VideoPlan(video_id=f"{split}_{len(plans):05d}", seed=seed, events=chosen))
    return plans


def _write_samples(new_dir: Path) -> None:
    """Write a few test videos as files, to look at and to ask about with `clipbert predict`."""
    from data_pipelines.corpus.builder import open_corpus

    corpus = open_corpus(new_dir)
    (new_dir / "samples").mkdir()
    for video_id in [video_id for video_id in corpus.ids if video_id.startswith("test")][:NUM_SAMPLES]:
        (new_dir / "samples" / f"{video_id}.mp4").write_bytes(corpus.read(video_id).data)


def entry_of_plan(plan: VideoPlan) -> Entry:
    """Generate a video for the corpus."""
    video = make_video(plan)
    checksum = hashlib.sha256(video.data).hexdigest()
    stored = store(video, Original())
    return Entry(video=stored, source_name=f"{plan.video_id}.mp4", source_sha256=checksum)


def _write_annotations(new_dir: Path, split: str, level: Level, plans: list[VideoPlan]) -> list[str]:
    """Write all records of a split and return their texts."""
    rng = np.random.default_rng([plans[0].seed, 10 + SPLITS.index(split)])
    captions = [caption for plan in plans for caption in _captions(plan, split, rng)]
    choices = [_multiple_choice(plan, level, rng) for plan in plans]
    questions = [_open_question(plan, level, rng) for plan in plans]
    for kind, records in ((Caption, captions), (MultipleChoice, choices), (OpenQuestion, questions)):
        write_records(records_path(new_dir, kind, split), records)
    texts = [caption.text for caption in captions] + [event_text(event) for event in all_events(level)]
    texts += [text for q in (*choices, *questions) for text in dataclasses.astuple(q)[2:3]]
    return texts


def _captions(plan: VideoPlan, split: str, rng: np.random.Generator) -> list[Caption]:
    """Return one caption, or for some train videos two; the order of objects in it means nothing."""
    num_captions = int(rng.integers(1, 3)) if split == "train" else 1
    templates = rng.choice(_TEMPLATES, num_captions, replace=False)
    orders = [rng.permutation(NUM_EVENTS) for _ in templates]
    return [
        Caption(
            id=f"{plan.video_id}_{number}",
            video_id=plan.video_id,
            text=str(template).format(*(event_text(plan.events[i]) for i in order)),
        )
        for number, (template, order) in enumerate(zip(templates, orders, strict=True))
    ]


def _multiple_choice(plan: VideoPlan, level: Level, rng: np.random.Generator) -> MultipleChoice:
    others = [event for event in all_events(level) if event not in plan.events]
    options = [others[i] for i in rng.choice(len(others), NUM_OPTIONS - 1, replace=False)]
    answer_index = int(rng.integers(NUM_OPTIONS))
    options.insert(answer_index, plan.events[rng.integers(NUM_EVENTS)])
    return MultipleChoice(
        id=f"{plan.video_id}_choice",
        video_id=plan.video_id,
        question="what happens ?" if level == "hard" else "which object appears ?",
        options=tuple(event_text(event) for event in options),
        answer_index=answer_index,
    )


def _open_question(plan: VideoPlan, level: Level, rng: np.random.Generator) -> OpenQuestion:
    asked, *rest = (plan.events[i] for i in rng.permutation(NUM_EVENTS))
    names = [
        event_text(dataclasses.replace(event, state=None)).removeprefix("a ") for event in (asked, *rest)
    ]
    if level == "hard":
        question, answer, question_type = f"what does the {names[0]} do ?", asked.state, "state"
    else:
        question = f"which object appears besides the {names[1]} and the {names[2]} ?"
        answer, question_type = names[0], "object"
    return OpenQuestion(
        id=f"{plan.video_id}_open",
        video_id=plan.video_id,
        question=question,
        answer=answer or "",
        question_type=question_type,
    )
