"""COCO captions: five sentences for each image."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from data_pipelines.annotations.dataset import Annotations, PublicDataset, check_disjoint, num_videos
from data_pipelines.annotations.files import read_object
from data_pipelines.annotations.images import coco_id, file_stems
from data_pipelines.annotations.records import Caption

_PUBLISHED = {
    "train2014": {"captions": 414_113, "images": 82_783},
    "val2014": {"captions": 202_654, "images": 40_504},
    "train2017": {"captions": 591_753, "images": 118_287},
    "val2017": {"captions": 25_014, "images": 5_000},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoCaptions(PublicDataset):
    """COCO captions: 123,287 images with five sentences each (Chen et al., 2015).

    https://cocodataset.org/#download has the images, annotations_trainval2014.zip (captions_train2014.json,
    captions_val2014.json) and annotations_trainval2017.zip. Both editions have the same images, split
    differently. Keep the names of the files: the year in them tells the edition.

    Images are named COCO_train2014_000000397133.jpg (2014) or 000000397133.jpg (2017).

    VQA v2 has the same images under the same ids, so both can share a data directory.
    """

    train: Path | None = None
    """captions_train2014.json or captions_train2017.json."""
    validation: Path | None = None
    """captions_val2014.json or captions_val2017.json."""

    def read(self) -> Annotations:
        """Read the captions."""
        records: dict[tuple[type, str], list[Caption]] = {}
        facts: list[str] = []
        for split, path in self.given_files.items():
            captions = records[Caption, split] = [
                Caption(
                    id=entry.text("id"),
                    video_id=coco_id(entry.integer("image_id")),
                    text=entry.text("caption"),
                )
                for entry in read_object(path).entries("annotations")
            ]
            found = {"captions": len(captions), "images": num_videos(captions)}
            edition = f"{'train' if split == 'train' else 'val'}{'2014' if '2014' in path.name else '2017'}"
            facts.append(self.check(path, f"COCO's {edition}", found, _PUBLISHED[edition]))
        facts.append(check_disjoint("COCO", records))
        video_ids = {caption.video_id for captions in records.values() for caption in captions}
        return Annotations(records=records, file_stems=file_stems(video_ids), facts=tuple(facts))
