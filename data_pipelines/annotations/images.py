"""Ids of COCO and Visual Genome images: the same in every dataset, so that all of them share one corpus."""

from __future__ import annotations

import re

_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?0*(\d+)(?:\.jpg)?")


def coco_id(image: int | str) -> str:
    """Return the video id of a COCO image: `coco_000000458752` for 458752 or COCO_train2014_000000458752.jpg.

    Raises:
      ValueError: the image is neither a number nor a name of COCO's.
    """
    match = _COCO_NAME.fullmatch(str(image))
    if match is None:
        raise ValueError(image)
    return f"coco_{int(match[1]):012d}"


def coco_file_stems(video_id: str) -> tuple[str, ...]:
    """Return the names that releases of COCO give to an image."""
    digits = video_id.removeprefix("coco_")
    names = (f"COCO_{part}_{digits}" for part in ("train2014", "val2014", "test2015", "test2014"))
    return (digits, *names)


def visual_genome_id(image: int) -> str:
    """Return the video id of a Visual Genome image."""
    return f"vg_{image}"


def file_stems(video_ids: set[str]) -> dict[str, tuple[str, ...]]:
    """Return names of image files by video id."""
    return {
        video_id: (video_id.removeprefix("vg_"),) if video_id.startswith("vg_") else coco_file_stems(video_id)
        for video_id in video_ids
    }
