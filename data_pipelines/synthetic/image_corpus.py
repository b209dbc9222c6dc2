"""Makes a data directory of synthetic images, for image-text pretraining and questions like those of VQA.

`clipbert prepare demo_images`, `make findings` and the notebooks call it. The vocabulary is that of the
synthetic videos.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipelines.annotations.records import SoftQuestion
from data_pipelines.annotations.store import SPLITS, records_path, write_answers, write_records
from data_pipelines.corpus.entry import CorpusEntry
from data_pipelines.corpus.ingest import OnProgress, new_data_dir, silently, write_summary
from data_pipelines.synthetic.drawing import Event
from data_pipelines.synthetic.image import ImagePlan, make_image
from data_pipelines.synthetic.image_records import image_records
from data_pipelines.synthetic.texts import Level, balanced, draw_events, num_sets, soft_answers, vocabulary
from data_pipelines.synthetic.video_corpus import build_videos, check_numbers, entry_of_video
from data_pipelines.tokenizer import write_vocab

_NUM_OBJECTS = (1, 2, 2, 3)
"""Numbers of objects, equally frequent: half of the images show two."""


def prepare_synthetic_images(
    data_dir: str | Path,
    *,
    level: Level = "easy",
    num_train: int = 2000,
    num_validation: int = 100,
    num_test: int = 200,
    seed: int = 0,
    num_workers: int = 2,
    overwrite: bool = False,
    on_progress: OnProgress = silently,
) -> Path:
    """Make a data directory of synthetic images, captions and questions; same options, same bytes.

    Every image has two captions and at least three soft questions: whether it shows an object (half of the
    answers are yes), how many objects it shows, and which object is at a place. Answers have the scores of
    VQA, from ten simulated people. Two counting questions list objects, some of which the image shows. In
    each split a set of objects repeats only after all sets of its size.

    Args:
      data_dir: the data directory; it must not exist unless `overwrite`.
      level: level of the texts.
      num_train: number of train images.
      num_validation: number of validation images.
      num_test: number of test images.
      seed: seed of everything except the vocabulary.
      num_workers: number of processes; 0 works in this one. The result does not depend on it.
      overwrite: replace an older data directory.
      on_progress: called with the number of images made so far.

    Raises:
      UserError: the directory exists, a split has no images, or the seed is negative.
    """
    counts = {"train": num_train, "validation": num_validation, "test": num_test}
    check_numbers(counts, seed)
    plans = {split: _plan_split(split, level, counts[split], seed) for split in SPLITS}
    with new_data_dir(data_dir, overwrite=overwrite) as new_dir:
        build_videos(new_dir, plans, entry_of_plan, ".png", num_workers, on_progress)
        for split in SPLITS:
            for kind, records in image_records(plans[split], split, level).items():
                write_records(records_path(new_dir, kind, split), records)
        write_answers(new_dir, SoftQuestion, soft_answers(level))
        write_vocab(new_dir / "vocab.txt", vocabulary(level))
        write_summary(
            new_dir, source="embedded images", level=level, seed=seed, num_videos=counts, unreadable=[]
        )
    return Path(data_dir)


def entry_of_plan(plan: ImagePlan) -> CorpusEntry:
    """Generate an image for the corpus."""
    return entry_of_video(make_image(plan), ".png")


def _plan_split(split: str, level: Level, count: int, seed: int) -> list[ImagePlan]:
    """Choose the objects of every image, all sets of a size equally often, to within one."""
    rng = np.random.default_rng([seed, 20 + SPLITS.index(split)])
    shown: dict[int, set[frozenset[Event]]] = {size: set() for size in _NUM_OBJECTS}
    plans: list[ImagePlan] = []
    for size in balanced(_NUM_OBJECTS, count, rng):
        if len(shown[size]) == num_sets(level, size):
            shown[size].clear()
        objects = draw_events(level, size, rng)
        while frozenset(objects) in shown[size]:
            objects = draw_events(level, size, rng)
        shown[size].add(frozenset(objects))
        plans.append(ImagePlan(video_id=f"{split}_{len(plans):05d}", seed=seed, objects=objects))
    return plans
